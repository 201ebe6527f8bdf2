"""In turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from polytask.errors import UserError, closest, listing
from polytask.schedules.orders.order import Metrics, Order
from polytask.schedules.report import Turn


class RoundRobin(Order):
    """In turn: each once in a round, or as often as a given sequence says.

    Args:
        sequence: The tasks of a round in this order, a task several times if it is to have more turns; between groups,
            any task of a group stands for it. Null: each once, in the order of the tasks.
    """

    def __init__(self, sequence: Sequence[str] | None = None) -> None:
        self.sequence = None if sequence is None else tuple(sequence)

    def check(self, turns: Sequence[Turn] | None, tasks: Metrics) -> None:
        """See `Order.check`."""
        if self.sequence is None:
            return
        for task in self.sequence:
            if task not in tasks:
                raise UserError(f"sequence names no task '{task}'.{closest(task, tasks)} The tasks: {listing(tasks)}.")
        if turns is None:
            raise UserError("A sequence needs turns that are known, but here groups are found while training.")
        missing = [turn for turn in turns if not set(turn) & set(self.sequence)]
        if missing:
            raise UserError(f"sequence lacks the task {listing(missing[0])}, which would never be trained.")

    def shares(self, sizes: Mapping[Turn, int], epoch: int) -> dict[Turn, float]:
        """See `Order.shares`."""
        round_ = self._round(sizes)
        return {turn: round_.count(turn) / len(round_) for turn in sizes}

    def choose(
        self, sizes: Mapping[Turn, int], epoch: int, count: int, generator: np.random.Generator
    ) -> Sequence[Turn]:
        """See `Order.choose`."""
        round_ = self._round(sizes)
        # Rounds go on over the epochs, so that no task is left out where an epoch has fewer steps than tasks.
        return [round_[(epoch * count + index) % len(round_)] for index in range(count)]

    def _round(self, sizes: Mapping[Turn, int]) -> list[Turn]:
        if self.sequence is None:
            return list(sizes)
        return [turn for task in self.sequence for turn in sizes if task in turn]
