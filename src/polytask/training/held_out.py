"""Rows beside those of a step, for balancers that look ahead."""

from __future__ import annotations

from collections.abc import Sequence

from polytask.balancing import Balancer
from polytask.balancing.main_tasks import MainTasks
from polytask.data.batch import Batch
from polytask.data.encoded_rows import EncodedRows
from polytask.data.request import Request
from polytask.errors import UserError
from polytask.training.task_streams import TaskStreams


class HeldOutRows:
    """Batches of rows that are labelled for any of some tasks, shuffled: the batch of a step follows from its number.

    Args:
        encoded: The rows.
        tasks: The tasks.
        batch_size: Rows in a batch.
        seed: What the order follows from.

    Raises:
        UserError: No row is labelled for any of the tasks.
    """

    def __init__(self, encoded: EncodedRows, tasks: Sequence[str], *, batch_size: int, seed: int) -> None:
        self._encoded = encoded
        self._tasks = tuple(tasks)
        # A name of its own gives an order that has nothing to do with that of the training batches.
        self._stream = TaskStreams(encoded, self._tasks, batch_size=batch_size, seed=seed).any_task("held out")

    def batch(self, step: int) -> Batch:
        """The rows for a step, counted from 0 through the whole training.

        Raises:
            UserError: A row cannot be read.
        """
        turn, (rows,) = self._stream.step(step)
        fetched = self._encoded[Request(turn, rows, self._tasks)]
        if fetched.error is not None:
            raise UserError(fetched.error)
        return fetched.batch


def held_out_rows(
    balancer: Balancer, rows: Sequence[EncodedRows], tasks: Sequence[str], *, batch_size: int, seed: int
) -> HeldOutRows | None:
    """Rows for a balancer that looks ahead: the first of `rows` that has labels of its main tasks; None: it does not.

    Where these are training rows, their order is another than that of the steps.
    """
    if not balancer.wants_validation:
        return None
    main = getattr(balancer, "main", None)
    looked_at = [task for task in tasks if not isinstance(main, MainTasks) or task in main.names]
    for encoded in rows:
        if any(encoded.labelled(task).any() for task in looked_at):
            return HeldOutRows(encoded, looked_at, batch_size=batch_size, seed=seed)
    return None
