"""The steps of a training: whose turn it is, and which rows it draws."""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from polytask.data.batch import Batch
from polytask.data.encoded_rows import EncodedRows
from polytask.data.loader import Loader, Order
from polytask.data.request import Request
from polytask.data.samplers import Sampler
from polytask.errors import UserError, closest, listing
from polytask.schedules import EpochReport, Joint, Schedule, Turn
from polytask.training.task_streams import Sampling, TaskStreams

logger = logging.getLogger("polytask")

Length = str | int
"""Steps in an epoch: their number, `rows`, `largest`, `smallest`, or the name of a task; see `Plan`."""


class Plan(Order):
    """Which rows make up which batch, and which tasks it is for.

    Each set of tasks that may have a turn has a stream of the rows that are labelled for at least one of them, or one
    for each of them where the schedule draws them separately. The plan of an epoch is made at its beginning, from what
    `state_dict` holds and the seed.

    Args:
        schedule: Whose turn it is.
        encoded: The training rows.
        tasks: The tasks, in the model's order.
        batch_size: Rows in a batch.
        batches: Batches in a step, fewer at the end of a pass.
        sampler: In which order, and how often, rows are drawn; None: each once in a pass, shuffled.
        own: What is other for the turns of one task, by task.
        seed: What all orders follow from.
        epochs: How many there are.
        length: Steps in an epoch. A number; `rows`: as many as it takes to pass once through the rows of every turn,
            added up; `largest`, `smallest` or a task: until its rows have been passed once.

    Attributes:
        stopped: The tasks whose turns are left out, from the next epoch on.

    Raises:
        UserError: The schedule does not fit the tasks, or no row is labelled.
    """

    def __init__(
        self,
        schedule: Schedule,
        encoded: EncodedRows,
        tasks: Turn,
        *,
        batch_size: int,
        batches: int = 1,
        sampler: Sampler | None = None,
        own: Mapping[str, Sampling] | None = None,
        seed: int = 0,
        epochs: int = 1,
        length: Length = "rows",
    ) -> None:
        self.schedule = schedule
        self._encoded = encoded
        self._tasks = tasks
        self._seed = seed
        self._length = length
        self._streams = TaskStreams(
            encoded,
            tasks,
            batch_size=batch_size,
            batches=batches,
            seed=seed,
            sampler=sampler,
            own=own,
            separately=schedule.separately,
        )
        self._drawn: Counter[Turn] = Counter()
        self.epoch = 0
        self.done = 0
        self.stopped: set[str] = set()
        streams = self._streams
        schedule.prepare(streams.labelled, epochs=epochs, union=streams.count)
        left_out = len(encoded) - streams.count(tasks)
        if left_out:
            logger.info("%d training rows are labelled for no task: they are left out.", left_out)

    @property
    def steps(self) -> int:
        """Steps in the current epoch."""
        return len(self._turns)

    def expected_steps(self, epochs: int) -> int:
        """Steps in the first `epochs` epochs, as far as it is known before they begin: at the most."""
        return sum(self._steps(epoch) for epoch in range(epochs))

    def shares(self) -> dict[str, float]:
        """The share of the current epoch's steps that each task takes part in; nothing where that is always all."""
        if isinstance(self.schedule, Joint):
            return {}
        turns = Counter(task for turn in self._turns for task in turn)
        return {task: turns[task] / max(1, self.steps) for task in self._tasks}

    def probes(self) -> Iterator[Batch]:
        """Batches for measuring at the end of the current epoch: rows that are labelled for any task.

        Their order has nothing to do with that of the steps, and follows from the seed and the epoch alone.

        Raises:
            UserError: A row cannot be read.
        """
        count = self.schedule.probes
        if not count:
            return
        stream = self._streams.any_task("probes")
        for number in range(self.epoch * count, (self.epoch + 1) * count):
            turn_of_rows, (rows,) = stream.step(number)
            fetched = self._encoded[Request(turn_of_rows, rows)]
            if fetched.error is not None:
                raise UserError(fetched.error)
            if len(fetched.batch):
                yield fetched.batch

    def finish(self) -> None:
        """Log what the user should know at the end of the training."""
        for remark in self.schedule.remarks():
            logger.warning("%s", remark)

    def __len__(self) -> int:
        """Batches that are left in the current epoch."""
        return sum(self._streams.batches_in(turn, number) for _, turn, number in self._left())

    def __iter__(self) -> Iterator[Request]:
        """The batches of the current epoch, those of the steps that are done left out."""
        left = list(self._left())
        return (request for step, turn, number in left for request in self._requests(step, turn, number))

    def _left(self) -> Iterator[tuple[int, Turn, int]]:
        """The steps of the current epoch that are not done: the number, the turn, and how often it was there before."""
        drawn = Counter(self._drawn)
        drawn.update(self._turns[: self.done])
        for step, turn in enumerate(self._turns[self.done :], start=self.done):
            yield step, turn, drawn[turn]
            drawn[turn] += 1

    def _requests(self, step: int, turn: Turn, number: int) -> Iterator[Request]:
        turn_of_rows, batches = self._streams.step(turn, number)
        sizes = self._streams.sizes(turn)
        for rows in batches:
            yield Request(turn_of_rows, rows, turn, step, sizes)

    def epoch_end(self, report: EpochReport) -> None:
        """Go on to the next epoch, for which the schedule may choose otherwise."""
        self._drawn.update(self._turns)
        self.schedule.epoch_end(report)
        self.epoch += 1
        self.done = 0
        self.__dict__.pop("_turns", None)

    def state_dict(self) -> dict[str, Any]:
        """What the current epoch's plan follows from, and how many of its steps are done."""
        return {
            "epoch": self.epoch,
            "done": self.done,
            "drawn": [[list(turn), steps] for turn, steps in self._drawn.items()],
            "stopped": sorted(self.stopped),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.epoch = state["epoch"]
        self.done = state["done"]
        self._drawn = Counter({tuple(turn): steps for turn, steps in state["drawn"]})
        self.stopped = set(state["stopped"])
        self.schedule.load_state_dict(state["schedule"])
        self.__dict__.pop("_turns", None)

    @cached_property
    def _turns(self) -> list[Turn]:
        generator = np.random.default_rng([self._seed % 2**63, self.epoch, zlib.crc32(b"turns")])
        turns = list(self.schedule.turns(self.epoch, self._steps(self.epoch), generator))
        # Tasks whose losses are left out have no turns of their own any more: the epoch is shorter.
        turns = [turn for turn in turns if not self.stopped.issuperset(turn)] or turns
        for turn in dict.fromkeys(turns):
            # What does not fit is to show before the epoch begins.
            self._streams.passes(turn)
        return turns

    def _steps(self, epoch: int) -> int:
        pools = self.schedule.pools(epoch)
        if not pools:
            raise UserError(
                f"The schedule has no turn in epoch {epoch + 1}: no task that has started takes part in it then. Let a "
                "task start earlier, or leave the others in."
            )
        if isinstance(self._length, int):
            return self._length
        if self._length == "rows":
            return sum(max(each.steps for each in self._streams.passes(turn)) for turn in pools)
        passes = [
            each._replace(steps=int(-(-each.steps // share)))
            for turn, share in pools.items()
            if share > 0
            for each in self._streams.passes(turn)
        ]
        if self._length in ("largest", "smallest"):
            choose = max if self._length == "largest" else min
            return choose(passes, key=lambda each: each.rows).steps
        of_task = [each.steps for each in passes if self._length in each.tasks]
        if not of_task and self._length in self._tasks:
            raise UserError(
                f"training.epoch_length is '{self._length}', but this task has no turn in epoch {epoch + 1}. Take "
                "another length, such as rows."
            )
        if not of_task:
            allowed = ("rows", "largest", "smallest", *self._tasks)
            raise UserError(
                f"training.epoch_length is '{self._length}', which is no task.{closest(self._length, allowed)} "
                f"Allowed: a number of steps, {listing(allowed)}."
            )
        return min(of_task)


class Steps:
    """The batches of a loader, step by step.

    Args:
        loader: Makes the batches that the plan asks for.
        plan: The plan.
    """

    def __init__(self, loader: Loader, plan: Plan) -> None:
        self.loader = loader
        self.plan = plan

    def __len__(self) -> int:
        """Steps in the current epoch."""
        return self.plan.steps

    def __iter__(self) -> Iterator[list[Batch]]:
        """The batches of each step; none where no row of a step can be read."""
        waiting: list[Batch] = []
        current: int | None = None
        for fetched in self.loader.fetched():
            if current is not None and fetched.step != current:
                yield waiting
                waiting = []
            current = fetched.step
            if len(fetched.batch):
                waiting.append(fetched.batch)
        if current is not None:
            yield waiting
