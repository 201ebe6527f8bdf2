"""Rows that lack labels: which of them a step has, and the two views that it has of each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from polytask.data.batch import Batch
from polytask.data.encoded_rows import EncodedRows
from polytask.data.request import Request
from polytask.data.streams import Stream, shuffled
from polytask.errors import UserError
from polytask.schedules import Turn

VIEWS = 2

_FIRST_DRAW = 2**32
"""Views draw their augmentation from numbers that no pass and no step of labelled rows reaches."""


class ViewStreams:
    """The rows that lack a label for at least one of some tasks, in an order of their own: labelled rows keep theirs.

    Each set of tasks that learn from them together has a stream. What a step draws follows from its number, the seed
    and the names of the tasks.

    Args:
        encoded: The training rows.
        tasks: The tasks that learn from rows without their labels, in the model's order.
        batch_size: Rows in a step.
        seed: What all orders follow from.
    """

    def __init__(self, encoded: EncodedRows, tasks: Turn, *, batch_size: int, seed: int) -> None:
        self.tasks = tasks
        self._encoded = encoded
        self._batch_size = batch_size
        self._seed = seed
        self._lacking = {task: ~encoded.labelled(task, wholly=True) for task in tasks}
        self._streams: dict[Turn, Stream] = {}

    def check(self, turn: Turn) -> None:
        """Make sure that each of a turn's tasks that learn from rows without their labels has some.

        Raises:
            UserError: Every row is labelled for one of them.
        """
        for task in self.tasks_of(turn):
            if not self._lacking[task].any():
                raise UserError(
                    f"training.tasks.{task}.unlabelled is for rows without a label, but every training row is labelled "
                    f"for '{task}'. Leave it out, or add rows whose cell in the target column is empty."
                )

    def tasks_of(self, turn: Turn) -> Turn:
        """Those of a turn's tasks that learn from rows without their labels."""
        return tuple(task for task in turn if task in self._lacking)

    def requests(self, turn: Turn, number: int, step: int) -> Iterator[Request]:
        """The two views of some rows.

        Args:
            turn: The tasks that learn from them, at least one; see `tasks_of`.
            number: How many steps there were for these tasks before.
            step: The step of the epoch.
        """
        passed, (rows,) = self._of(turn).step(number)
        for view in range(VIEWS):
            yield Request(_FIRST_DRAW + passed * VIEWS + view, rows, turn, step, view=view)

    def _of(self, turn: Turn) -> Stream:
        if turn not in self._streams:
            positions = np.flatnonzero(np.logical_or.reduce([self._lacking[task] for task in turn]))
            # All tasks together have one order, whichever tasks these are: another one leaves the rows' order.
            name = "unlabelled rows" if turn == self.tasks else f"unlabelled rows of {' + '.join(turn)}"
            order = shuffled(self._encoded.rows[positions], seed=self._seed, name=name)
            self._streams[turn] = Stream(positions, order, batch_size=self._batch_size)
        return self._streams[turn]


@dataclass(frozen=True)
class Views:
    """Two views of N rows, and for which tasks they lack labels.

    Attributes:
        reference: The view whose outputs are taken for granted, augmented gently; without labels.
        other: The view that is learned from; without labels.
        rows: For each task that some of them lack a label for, these rows, int64; None: all.
        missing: For the same tasks, where the target of these rows has no label, bool of the target's shape; None:
            everywhere.
        entries: For the same tasks, how many labels these are. As the others, it is known while the rows are on the
            CPU, so that a step never waits for the device.
    """

    reference: Batch
    other: Batch
    rows: Mapping[str, Tensor | None]
    missing: Mapping[str, Tensor | None]
    entries: Mapping[str, int]

    @staticmethod
    def of(reference: Batch, other: Batch) -> Views:
        """The views from two batches of the same rows, with the masks of their labels; there may be no row in them."""
        if not torch.equal(reference.rows, other.rows):
            # A file that could be read once need not be there the second time.
            reference, other = _common(reference, other), _common(other, reference)
        rows: dict[str, Tensor | None] = {}
        missing: dict[str, Tensor | None] = {}
        entries: dict[str, int] = {}
        for task, mask in reference.masks.items():
            lacking = ~mask
            places = lacking if lacking.ndim == 1 else lacking.any(dim=1)
            if not places.any():
                continue
            rows[task] = None if places.all() else places.nonzero().squeeze(1)
            lacking = lacking[places]
            missing[task] = None if lacking.all() else lacking
            entries[task] = int(lacking.sum())
        known = list(reference.labelled)
        return Views(reference.without(known), other.without(known), rows, missing, entries)

    def __len__(self) -> int:
        return len(self.other)

    def without(self, tasks: Collection[str]) -> Views:
        """The same rows, which some tasks do not learn from."""
        left = [task for task in self.rows if task not in tasks]
        rows, missing = ({task: each[task] for task in left} for each in (self.rows, self.missing))
        return replace(self, rows=rows, missing=missing, entries={task: self.entries[task] for task in left})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Views:
        """The same views on another device."""

        def moved(tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
            return {
                task: None if tensor is None else tensor.to(device, non_blocking=non_blocking)
                for task, tensor in tensors.items()
            }

        reference, other = (each.to(device, non_blocking=non_blocking) for each in (self.reference, self.other))
        return Views(reference, other, moved(self.rows), moved(self.missing), self.entries)


def _common(batch: Batch, other: Batch) -> Batch:
    """The rows that are in another batch as well."""
    return batch.part(torch.isin(batch.rows, other.rows).nonzero().squeeze(1))
