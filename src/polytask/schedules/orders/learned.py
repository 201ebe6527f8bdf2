"""A bandit that prefers what makes progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polytask.errors import UserError
from polytask.schedules.orders.order import Order, mean_of_known
from polytask.schedules.report import EpochReport, Turn

_LOWEST, _HIGHEST = 0.2, 0.8
_KEPT = 1000


class Learned(Order):
    """At random, with probabilities that a bandit learns: more often the tasks that make progress.

    EXP3.S on learning progress (Graves et al., Automated Curriculum Learning for Neural Networks, ICML 2017): with
    weights `w_t`, 0 at first, `p_t = (1 - ε) exp(w_t) / sum_s exp(w_s) + ε / N`, and after each epoch, the e-th,
    `w_t = log((1 - α) exp(w_t + η r_t) + α / (N - 1) sum_(s != t) exp(w_s + η r_s))` with `α = 1 / e`. `r_t` is the
    progress scaled to -1 ... 1, where -1 and 1 are the 20% and the 80% quantile of all progress so far.

    Here a step is an epoch, since the turns of one are all decided at its beginning. Every task that had a turn shows
    its progress, so that no division by its probability is needed; those that had none keep `r_t = 0`. Progress is the
    part of its training loss that a task lost since the epoch before, `(L_t(e-1) - L_t(e)) / |L_t(e-1)|`, which has no
    unit. All have the same probability until the second epoch has ended.

    Args:
        rate: `η`, above 0: how fast it learns. The paper has 0.001, for thousands of updates; epochs are fewer.
        exploration: `ε`, from 0 to 1: the share of the steps that all have alike.
    """

    def __init__(self, rate: float = 1.0, exploration: float = 0.1) -> None:
        if not rate > 0:
            raise UserError(f"rate is {rate:g}, but must be above 0.")
        if not 0 <= exploration <= 1:
            raise UserError(f"exploration is {exploration:g}, but must be from 0 to 1.")
        self.rate = rate
        self.exploration = exploration
        self._weights: dict[str, float] = {}
        self._losses: dict[str, float] = {}
        self._progress: list[float] = []
        self._updates = 0

    def shares(self, sizes: Mapping[Turn, int], epoch: int) -> dict[Turn, float]:
        """See `Order.shares`. A group has the mean weight of its tasks."""
        mean = sum(self._weights.values()) / len(self._weights) if self._weights else 0.0
        weights = np.array([mean_of_known(turn, self._weights, mean) for turn in sizes])
        powers = np.exp(weights - weights.max())
        shares = (1 - self.exploration) * powers / powers.sum() + self.exploration / len(powers)
        return dict(zip(sizes, shares.tolist(), strict=True))

    def epoch_end(self, report: EpochReport) -> None:
        """See `Order.epoch_end`."""
        losses = {task: loss for task, loss in report.losses.items() if np.isfinite(loss)}
        progress = {
            task: (self._losses[task] - loss) / abs(self._losses[task])
            for task, loss in losses.items()
            if self._losses.get(task, 0.0) != 0
        }
        for task in losses:
            self._weights.setdefault(task, 0.0)
        self._losses.update(losses)
        if progress:
            self._update(progress)

    def _update(self, progress: Mapping[str, float]) -> None:
        self._updates += 1
        self._progress = [*self._progress, *progress.values()][-_KEPT:]
        low, high = np.quantile(self._progress, [_LOWEST, _HIGHEST])
        width = high - low
        rewards = {
            task: float(np.clip(2 * (value - low) / width - 1, -1, 1)) if width > 0 else 0.0
            for task, value in progress.items()
        }
        tasks = list(self._weights)
        raised = np.array([self._weights[task] + self.rate * rewards.get(task, 0.0) for task in tasks])
        if len(tasks) > 1:
            top = raised.max()
            powers = np.exp(raised - top)
            mixed = 1 / (self._updates + 1)
            others = (powers.sum() - powers) / (len(tasks) - 1)
            raised = np.log((1 - mixed) * powers + mixed * others) + top
        self._weights = dict(zip(tasks, raised.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """See `Order.state_dict`."""
        return {
            "weights": dict(self._weights),
            "losses": dict(self._losses),
            "progress": list(self._progress),
            "updates": self._updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Order.load_state_dict`."""
        self._weights, self._losses = dict(state["weights"]), dict(state["losses"])
        self._progress, self._updates = list(state["progress"]), state["updates"]
