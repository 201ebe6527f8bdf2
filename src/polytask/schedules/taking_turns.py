"""What alternating between tasks and between groups have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from polytask.errors import UserError
from polytask.schedules import orders
from polytask.schedules.orders import Order
from polytask.schedules.report import EpochReport, Turn
from polytask.schedules.schedule import Schedule


class TakingTurns(Schedule):
    """Several turns that follow one another in an order.

    Args:
        order: The order, or its name.
        consecutive: Steps in a row of each turn.

    Raises:
        UserError: There is no such order, or `consecutive` is below 1.
    """

    def __init__(self, order: Order | str, consecutive: int) -> None:
        if consecutive < 1:
            raise UserError(f"consecutive is {consecutive}, but must be at least 1.")
        self.order = orders.create(order) if isinstance(order, str) else order
        self.consecutive = consecutive

    @abstractmethod
    def possible(self) -> Sequence[Turn]:
        """The turns of the epoch that comes next."""

    @property
    def wants_scores(self) -> bool:
        """See `Schedule.wants_scores`."""
        return self.order.wants_scores

    def prepare(self, rows: Mapping[str, int], *, epochs: int = 1, union: Callable[[Turn], int] | None = None) -> None:
        """See `Schedule.prepare`."""
        super().prepare(rows, epochs=epochs, union=union)
        self.order.prepare(epochs)

    def pools(self, epoch: int) -> Mapping[Turn, float]:
        """See `Schedule.pools`."""
        return self.order.shares(self._sizes(), epoch)

    def turns(self, epoch: int, steps: int, generator: np.random.Generator) -> Sequence[Turn]:
        """See `Schedule.turns`."""
        choices = -(-steps // self.consecutive)
        chosen = self.order.choose(self._sizes(), epoch, choices, generator)
        return [turn for turn in chosen for _ in range(self.consecutive)][:steps]

    def epoch_end(self, report: EpochReport) -> None:
        """See `Schedule.epoch_end`."""
        self.order.epoch_end(report)

    def state_dict(self) -> dict[str, Any]:
        """See `Schedule.state_dict`."""
        return {"order": self.order.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Schedule.load_state_dict`."""
        self.order.load_state_dict(state["order"])

    def _sizes(self) -> dict[Turn, int]:
        return {turn: self.size(turn) for turn in self.possible()}
