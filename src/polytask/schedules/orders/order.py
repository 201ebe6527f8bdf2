"""What an order is: the choice of whose turn comes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from polytask.schedules.report import EpochReport, Turn

Metrics = Mapping[str, Collection[str] | None]
"""The tasks, in the model's order, each with the names of its metrics on validation data; None: not known."""


class Order(ABC):
    """Decides which of several turns come next.

    A turn is one task, or a group of tasks. What an order needs to know of a group is the mean over its tasks.
    """

    wants_scores: bool = False
    """Whether it goes by scores on validation data."""

    def check(self, turns: Sequence[Turn] | None, tasks: Metrics) -> None:  # noqa: B027 (a hook: not every class needs it)
        """Make sure that the parameters fit.

        Args:
            turns: Those that there will be; None: they are not known in advance.
            tasks: All tasks.

        Raises:
            UserError: They do not.
        """

    def prepare(self, epochs: int) -> None:  # noqa: B027 (a hook: not every class needs it)
        """Take in the number of epochs, before the first one."""

    @abstractmethod
    def shares(self, sizes: Mapping[Turn, int], epoch: int) -> dict[Turn, float]:
        """The share of the steps that each turn takes; they sum to 1.

        Args:
            sizes: The turns, each with how many rows are labelled for at least one of its tasks.
            epoch: Counted from 0.
        """

    def choose(
        self, sizes: Mapping[Turn, int], epoch: int, count: int, generator: np.random.Generator
    ) -> Sequence[Turn]:
        """The turns of an epoch, one after the other: drawn with `shares` as probabilities, unless a class says else.

        Args:
            sizes: As in `shares`.
            epoch: Counted from 0.
            count: How many there are.
            generator: What is random follows from it.
        """
        shares = self.shares(sizes, epoch)
        turns = list(shares)
        return [turns[index] for index in generator.choice(len(turns), size=count, p=list(shares.values()))]

    def epoch_end(self, report: EpochReport) -> None:  # noqa: B027 (a hook: not every class needs it)
        """Take in what an epoch has shown."""

    def state_dict(self) -> dict[str, Any]:
        """What was learned from earlier epochs, ready for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (a hook: not every class needs it)
        """Take it back."""


def in_proportion(turns: Sequence[Turn], weights: Sequence[float] | np.ndarray) -> dict[Turn, float]:
    """Shares in proportion to weights of at least 0; the same for all where every weight is 0."""
    values = np.asarray(weights, dtype=float)
    total = values.sum()
    shares = values / total if total > 0 else np.full(len(turns), 1 / len(turns))
    return dict(zip(turns, shares.tolist(), strict=True))


def mean_of_known(turn: Turn, values: Mapping[str, float], otherwise: float) -> float:
    """The mean over the tasks of a turn whose value is known; `otherwise` where none is."""
    known = [values[task] for task in turn if task in values]
    return sum(known) / len(known) if known else otherwise
