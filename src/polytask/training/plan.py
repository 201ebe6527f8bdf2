"""The steps of a training: whose turn it is, and which rows it draws."""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from polytask.data.batch import Batch
from polytask.data.encoded_rows import EncodedRows
from polytask.data.loader import Order
from polytask.data.request import Request
from polytask.data.samplers import Sampler
from polytask.errors import UserError, listing
from polytask.schedules import EpochReport, Joint, Schedule, Turn
from polytask.training.epoch_length import Length, steps_of_epoch
from polytask.training.task_streams import Sampling, TaskStreams, check_own_sampling
from polytask.training.views import VIEWS, ViewStreams

logger = logging.getLogger("polytask")


class Plan(Order):
    """Which rows make up which batch, and which tasks it is for.

    Each set of tasks that may have a turn has a stream of the rows that are labelled for at least one of them, or one
    for each of them where the schedule draws them separately. The plan of an epoch is made at its beginning, from what
    `state_dict` holds and the seed.

    Where a task of a turn learns from rows without its label, the step has two views of such rows as well.

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
        length: Steps in an epoch; see `steps_of_epoch`.
        unlabelled: The tasks that learn from rows without their labels.
        unlabelled_batch_size: How many such rows a step has; None: `batch_size`.

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
        unlabelled: Turn = (),
        unlabelled_batch_size: int | None = None,
    ) -> None:
        self.schedule = schedule
        self._encoded = encoded
        self._tasks = tasks
        self._seed = seed
        self._length = length
        self._epochs = epochs
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
        check_own_sampling(schedule, own or {}, epochs)
        self._views = ViewStreams(encoded, unlabelled, batch_size=unlabelled_batch_size or batch_size, seed=seed)
        rest = len(encoded) - streams.count(tasks)
        if rest:
            use = f"serve as unlabelled rows for {listing(unlabelled)}" if unlabelled else "are left out"
            logger.info("%d training rows are labelled for no task: they %s.", rest, use)

    @property
    def steps(self) -> int:
        """Steps in the current epoch."""
        return len(self._turns)

    def expected_steps(self, epochs: int) -> int:
        """Steps in the first `epochs` epochs, as far as it is known before they begin: at the most."""
        return sum(self._steps(epoch) for epoch in range(epochs))

    def turn(self, step: int) -> Turn:
        """The tasks that a step of the current epoch is for."""
        return self._turns[step]

    def shares(self) -> dict[str, float]:
        """The share of the current epoch's steps that each task takes part in; nothing where that is always all."""
        if isinstance(self.schedule, Joint):
            return {}
        turns = Counter(task for turn in self._turns for task in turn)
        return {task: turns[task] / max(1, self.steps) for task in self._tasks}

    def coming(self) -> set[str]:
        """The tasks that can have a turn after the current epoch, as far as it is known."""
        later = (self.schedule.pools(epoch) for epoch in range(self.epoch + 1, self._epochs))
        return {task for pools in later for turn, share in pools.items() if share > 0 for task in turn}

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
        return sum(
            self._streams.batches_in(each.turn, each.number) + VIEWS * bool(each.viewing) for each in self._left()
        )

    def __iter__(self) -> Iterator[Request]:
        """The batches of the current epoch, those of the steps that are done left out."""
        left = list(self._left())
        return (request for each in left for request in self._requests(each))

    def _left(self) -> Iterator[_Step]:
        """The steps of the current epoch that are not done."""
        drawn = Counter(self._drawn)
        drawn.update(self._turns[: self.done])
        viewed: Counter[Turn] = Counter()
        for turn, steps in drawn.items():
            viewed[self._views.tasks_of(turn)] += steps
        for step, turn in enumerate(self._turns[self.done :], start=self.done):
            viewing = self._views.tasks_of(turn)
            # Tasks that have stopped change nothing in which rows a step has, but one that is for them alone has none.
            wanted = not self.stopped.issuperset(viewing)
            yield _Step(step, turn, drawn[turn], viewing if wanted else (), viewed[viewing])
            drawn[turn] += 1
            viewed[viewing] += 1

    def _requests(self, step: _Step) -> Iterator[Request]:
        turn_of_rows, batches = self._streams.step(step.turn, step.number)
        sizes = self._streams.sizes(step.turn)
        for rows in batches:
            yield Request(turn_of_rows, rows, step.turn, step.place, sizes)
        if step.viewing:
            yield from self._views.requests(step.viewing, step.viewed, step.place)

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
            self._views.check(turn)
        return turns

    def _steps(self, epoch: int) -> int:
        return steps_of_epoch(self._length, epoch, self.schedule.pools(epoch), self._streams.passes, self._tasks)


class _Step(NamedTuple):
    """One step of the current epoch.

    Attributes:
        place: Its place in the epoch.
        turn: Whose turn it is.
        number: How often this turn was there before, in all epochs.
        viewing: The tasks that learn from rows without their labels in it.
        viewed: How many steps there were before in which just these tasks could.
    """

    place: int
    turn: Turn
    number: int
    viewing: Turn
    viewed: int
