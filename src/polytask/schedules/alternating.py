"""One task a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from polytask.components import Nested
from polytask.schedules.orders import Metrics, Order
from polytask.schedules.report import Turn
from polytask.schedules.taking_turns import TakingTurns


class Alternating(TakingTurns):
    """One task in each step, on rows that are labelled for it.

    Args:
        order: Which task comes next: the name of an order, or a mapping with its type and settings.
        consecutive: Steps in a row that a task has when it is its turn.
    """

    def __init__(self, order: Annotated[Order | str, Nested("order")] = "round_robin", consecutive: int = 1) -> None:
        super().__init__(order, consecutive)

    def check(self, tasks: Metrics, epochs: int) -> None:
        """See `Schedule.check`."""
        self.order.check([(task,) for task in tasks], tasks)

    def possible(self) -> Sequence[Turn]:
        """See `TakingTurns.possible`."""
        return [(task,) for task in self.tasks]
