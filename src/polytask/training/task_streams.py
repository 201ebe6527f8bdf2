"""The rows that each turn draws from: one stream for a set of tasks, or one for each of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from polytask.data.encoded_rows import EncodedRows
from polytask.data.samplers import Sampler, Shuffled, StreamRows
from polytask.data.streams import Drawn, PassOrder, SeparateStreams, Stream
from polytask.errors import UserError, at_key, listing
from polytask.schedules import Schedule, Turn

logger = logging.getLogger("polytask")


class Sampling(NamedTuple):
    """How the rows of one task are drawn, where it is not as for all.

    Attributes:
        batch_size: Rows in a batch; None: as for all.
        sampler: In which order, and how often; None: as for all.
    """

    batch_size: int | None = None
    sampler: Sampler | None = None


class Pass(NamedTuple):
    """One pass through the rows of a turn, or of one of its tasks where these are drawn separately.

    Attributes:
        tasks: The tasks.
        rows: How many there are.
        steps: How many steps of this turn it takes.
    """

    tasks: Turn
    rows: int
    steps: int


class TaskStreams:
    """The streams of all turns.

    A stream's order follows from the seed and from the names of its tasks, so that other tasks change nothing in it.

    Args:
        encoded: The training rows.
        tasks: The tasks, in the model's order.
        batch_size: Rows in a batch.
        batches: Batches in a step.
        seed: What all orders follow from.
        sampler: In which order, and how often, rows are drawn; None: each once in a pass, shuffled.
        own: What is other for a turn of one task, by task.
        separately: Whether turns of several tasks draw each task's own rows.
    """

    def __init__(
        self,
        encoded: EncodedRows,
        tasks: Turn,
        *,
        batch_size: int,
        batches: int = 1,
        seed: int = 0,
        sampler: Sampler | None = None,
        own: Mapping[str, Sampling] | None = None,
        separately: bool = False,
    ) -> None:
        self._encoded = encoded
        self._tasks = tasks
        self._batch_size = batch_size
        self._batches = batches
        self._seed = seed
        self._sampler = sampler
        self._own = own or {}
        self._separately = separately
        self._labelled = {task: encoded.labelled(task) for task in tasks}
        self._counts: dict[Turn, int] = {(task,): int(rows.sum()) for task, rows in self._labelled.items()}
        self._streams: dict[Turn, Stream] = {}
        self._separate: dict[Turn, SeparateStreams] = {}

    @property
    def labelled(self) -> dict[str, int]:
        """How many rows are labelled for each task."""
        return {task: self.count((task,)) for task in self._tasks}

    def count(self, turn: Turn) -> int:
        """How many rows are labelled for at least one of some tasks."""
        if turn not in self._counts:
            self._counts[turn] = len(self.rows(turn))
        return self._counts[turn]

    def rows(self, turn: Turn) -> np.ndarray:
        """int64: the rows that are labelled for at least one of some tasks, by their positions among the loader's."""
        return np.flatnonzero(np.logical_or.reduce([self._labelled[task] for task in turn]))

    def step(self, turn: Turn, number: int) -> Drawn:
        """The rows of the turn's step of this number, counted from 0."""
        return (self._apart if self._is_apart(turn) else self._of)(turn).step(number)

    def sizes(self, turn: Turn) -> tuple[int, ...] | None:
        """How many rows of a batch are drawn for each task; None where they are drawn for all of them."""
        return self._apart(turn).sizes if self._is_apart(turn) else None

    def batches_in(self, turn: Turn, number: int) -> int:
        """How many batches the turn's step of this number has."""
        return self._batches if self._is_apart(turn) else self._of(turn).batches_in(number)

    def passes(self, turn: Turn) -> list[Pass]:
        """How long it takes to draw the turn's rows once: for each task where these are drawn separately.

        Raises:
            UserError: There is no row to draw, or a sampler does not fit.
        """
        if not self._is_apart(turn):
            stream = self._of(turn)
            return [Pass(turn, len(stream), stream.steps)]
        streams = self._apart(turn)
        return [Pass((task,), *each) for task, *each in zip(turn, streams.lengths, streams.steps, strict=True)]

    def any_task(self, name: str) -> Stream:
        """Single batches of rows that are labelled for any task, shuffled in an order that follows from `name`."""
        rows = self._stream_rows(self._tasks, name)
        return Stream(rows.positions, rows.shuffled(), batch_size=self._batch_size)

    def _is_apart(self, turn: Turn) -> bool:
        return self._separately and len(turn) > 1

    def _of(self, turn: Turn) -> Stream:
        if turn not in self._streams:
            # All tasks together have the order of the rows, whichever tasks these are.
            rows = self._stream_rows(turn, "rows" if turn == self._tasks else " + ".join(turn))
            self._streams[turn] = Stream(
                rows.positions,
                self._order(rows),
                batch_size=rows.batch_size,
                batches=self._batches,
                repeats=self._sampler_of(turn)[1].repeats,
            )
        return self._streams[turn]

    def _apart(self, turn: Turn) -> SeparateStreams:
        if turn not in self._separate:
            each = [self._stream_rows((task,), task) for task in turn]
            for rows in each:
                key, sampler = self._sampler_of(rows.tasks)
                if sampler.keeps_batches:
                    raise UserError(
                        f"{key}: this sampler decides which rows are in a batch together, but with draw: tasks a batch "
                        "has rows of every task. Allowed: shuffled, class_balanced, weighted."
                    )
            self._separate[turn] = SeparateStreams(
                [rows.positions for rows in each],
                [self._order(rows) for rows in each],
                batch_sizes=[rows.batch_size for rows in each],
                batches=self._batches,
            )
        return self._separate[turn]

    def _stream_rows(self, turn: Turn, name: str) -> StreamRows:
        positions = self.rows(turn)
        if not len(positions):
            raise UserError(f"No training row is labelled for {listing(turn)}, which the schedule has a turn for.")
        own = self._own.get(turn[0]) if len(turn) == 1 else None
        batch_size = self._batch_size if own is None or own.batch_size is None else own.batch_size
        return StreamRows(self._encoded, positions, turn, batch_size, self._seed, name)

    def _order(self, rows: StreamRows) -> PassOrder:
        key, sampler = self._sampler_of(rows.tasks)
        with at_key(key):
            return sampler.passes(rows)

    def _sampler_of(self, turn: Turn) -> tuple[str, Sampler]:
        """The sampler of a turn, and the key of the configuration that it comes from."""
        own = self._own.get(turn[0]) if len(turn) == 1 else None
        if own is not None and own.sampler is not None:
            return f"training.tasks.{turn[0]}.sampler", own.sampler
        return "training.sampler", self._sampler or Shuffled()


def check_own_sampling(schedule: Schedule, own: Mapping[str, Sampling], epochs: int) -> None:
    """Make sure that what is said of single tasks is used: that they have turns of their own.

    Args:
        schedule: Prepared.
        own: What is other for a turn of one task, by task.
        epochs: How many there are.

    Raises:
        UserError: A task has none in any epoch. Where it has some only, there is a warning.
    """
    keys = {
        task: f"training.tasks.{task}.{'batch_size' if each.sampler is None else 'sampler'}"
        for task, each in own.items()
        if each != Sampling()
    }
    if schedule.separately or not keys:
        return
    pools = [list(schedule.pools(epoch)) for epoch in range(epochs)]
    for task, key in keys.items():
        used = any((task,) in turns for turns in pools)
        together = [
            (epoch, turn) for epoch, turns in enumerate(pools) for turn in turns if task in turn and len(turn) > 1
        ]
        if not used and not schedule.regroups:
            others = f": its turns are for {listing(together[0][1])} together" if together else ""
            raise UserError(
                f"{key} says how rows are drawn for '{task}' alone, but in this schedule '{task}' has no turn of its "
                f"own{others}. Take it out, or take a schedule that draws each task's own rows: alternating, or joint "
                "with draw: tasks."
            )
        if together:
            first, last = together[0][0] + 1, together[-1][0] + 1
            span = f"from epoch {first} on" if last == epochs else f"up to epoch {last}"
            when = span if used else "unless it becomes a group of its own"
            logger.warning(
                "%s is not used %s: there '%s' has turns together with other tasks, whose rows training.sampler draws.",
                key,
                when,
                task,
            )
