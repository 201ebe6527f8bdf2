"""What a schedule is: the choice of the tasks that take part in each step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from polytask.schedules.orders import Metrics
from polytask.schedules.report import EpochReport, Turn

__all__ = ["EpochReport", "Freeze", "InnerLoop", "Metrics", "Schedule", "Turn"]


class Freeze(NamedTuple):
    """Stages that do not learn for some epochs.

    Attributes:
        stage: The last of them, counted from the input on: its name, or how many stages they are; True: all stages.
        start: The first epoch, counted from 0.
        end: The epoch in which they learn again; None: never.
    """

    stage: str | int
    start: int
    end: int | None


class InnerLoop(NamedTuple):
    """Steps on one task that are taken on trial, to see where they lead; see `Meta`.

    Attributes:
        steps: How many.
        lr: Their learning rate.
        query: Whether what counts is the gradient on one more batch after them, and not the way that they went.
    """

    steps: int
    lr: float
    query: bool

    @property
    def batches(self) -> int:
        """How many batches a step takes."""
        return self.steps + self.query


class Schedule(ABC):
    """Decides which tasks take part in which step.

    The turns of an epoch are all decided at its beginning, from the seed and from what earlier epochs have shown: so
    batches can be prepared ahead, and a run that is resumed in the middle of an epoch goes on as it would have.
    """

    @property
    def separately(self) -> bool:
        """Whether a turn of several tasks draws rows for each of them by itself, a row counting for that task alone."""
        return False

    @property
    def regroups(self) -> bool:
        """Whether later epochs can have turns that `pools` does not foresee, because tasks are put together anew."""
        return False

    @property
    def wants_scores(self) -> bool:
        """Whether it goes by scores on validation data."""
        return False

    @property
    def probes(self) -> int:
        """On how many batches the cosines between the tasks' gradients are measured at the end of each epoch.

        The batches have rows that are labelled for any task. Each costs a forward pass, and a backward pass for each
        task.
        """
        return 0

    @property
    def inner(self) -> InnerLoop | None:
        """The steps on trial that each step consists of; None: a step is a step."""
        return None

    @property
    def freezes(self) -> tuple[Freeze, ...]:
        """Which stages do not learn when, beside those of `training.transfer`."""
        return ()

    def check(self, tasks: Metrics, epochs: int) -> None:  # noqa: B027 (a hook: not every class needs it)
        """Make sure that the parameters fit, as far as this is known without the data.

        Args:
            tasks: All tasks.
            epochs: How many there are.

        Raises:
            UserError: They do not.
        """

    def prepare(self, rows: Mapping[str, int], *, epochs: int = 1, union: Callable[[Turn], int] | None = None) -> None:
        """Take in the tasks, before the first epoch.

        Args:
            rows: How many training rows are labelled for each task, in the model's order.
            epochs: How many there are.
            union: How many rows are labelled for at least one of some tasks; None: no row is labelled for two.

        Raises:
            UserError: The parameters do not fit these tasks.
        """
        self.rows = dict(rows)
        self._union = union
        self.check(dict.fromkeys(rows), epochs)

    @property
    def tasks(self) -> Turn:
        """All tasks, in the model's order; after `prepare`."""
        return tuple(self.rows)

    def size(self, turn: Turn) -> int:
        """How many rows are labelled for at least one of the tasks; after `prepare`."""
        return sum(self.rows[task] for task in turn) if self._union is None else self._union(turn)

    @abstractmethod
    def pools(self, epoch: int) -> Mapping[Turn, float]:
        """The turns that an epoch can have, and the share of its steps that each is expected to take.

        It is exact for the epoch that comes next, and for a later one what can be foreseen, at the most.
        """

    @abstractmethod
    def turns(self, epoch: int, steps: int, generator: np.random.Generator) -> Sequence[Turn]:
        """The tasks of each step of an epoch.

        Args:
            epoch: Counted from 0.
            steps: How many there are.
            generator: What is random follows from it; it is the same each time an epoch is asked for.
        """

    def epoch_end(self, report: EpochReport) -> None:  # noqa: B027 (a hook: not every class needs it)
        """Take in what an epoch has shown, for schedules that react to it."""

    def remarks(self) -> list[str]:
        """What the user should know at the end of the training."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What was learned from earlier epochs, ready for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (a hook: not every class needs it)
        """Take it back."""
