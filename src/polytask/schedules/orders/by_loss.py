"""More often what is learned more slowly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polytask.errors import UserError
from polytask.schedules.orders.order import Order, in_proportion, mean_of_known
from polytask.schedules.report import EpochReport, Turn


class ByLoss(Order):
    """At random, more often the tasks whose training loss has fallen less.

    `p_t = r_t^α / sum_s r_s^α` with `r_t = L_t / L_t(1)`, the mean training loss of the last epoch by that of the
    task's first one: the inverse training rate of GradNorm (Chen et al., ICML 2018), here for the choice of tasks
    instead of their weights. A ratio has no unit, so losses in different units can be compared. In the first epoch all
    have the same probability; a task that has not been trained yet, or whose loss is not above 0, counts as the mean of
    the others.

    Args:
        power: `α`, at least 0: 0 is the same for all, more is more uneven.
    """

    def __init__(self, power: float = 1.0) -> None:
        if not power >= 0:
            raise UserError(f"power is {power:g}, but must be at least 0: more is more uneven.")
        self.power = power
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def shares(self, sizes: Mapping[Turn, int], epoch: int) -> dict[Turn, float]:
        """See `Order.shares`."""
        ratios = {task: self._last[task] / first for task, first in self._first.items()}
        mean = sum(ratios.values()) / len(ratios) if ratios else 1.0
        return in_proportion(list(sizes), [mean_of_known(turn, ratios, mean) ** self.power for turn in sizes])

    def epoch_end(self, report: EpochReport) -> None:
        """See `Order.epoch_end`."""
        for task, loss in report.losses.items():
            if loss > 0:
                self._first.setdefault(task, loss)
                self._last[task] = loss

    def state_dict(self) -> dict[str, Any]:
        """See `Order.state_dict`."""
        return {"first": dict(self._first), "last": dict(self._last)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Order.load_state_dict`."""
        self._first, self._last = dict(state["first"]), dict(state["last"])
