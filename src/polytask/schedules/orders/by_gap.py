"""More often what is further from where it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from polytask.errors import UserError, closest, listing
from polytask.schedules.orders.order import Metrics, Order, in_proportion, mean_of_known
from polytask.schedules.report import EpochReport, Turn


class ByGap(Order):
    """At random, more often the tasks that are further behind what they reach when they are trained alone.

    `p_t = (1 - ε) g_t / sum_s g_s + ε / N` over N turns, with `g_t = max(0, m*_t - m_t) / |m*_t|` the relative gap
    between the last validation score `m_t` and the reference `m*_t` (the other way round where lower is better):
    dynamic sampling (Gottumukkala, Dua, Singh and Gardner, Dynamic Sampling Strategies for Multi-Task Reading
    Comprehension, ACL 2020), where the reference is the score of single-task training, and the gap is not divided by
    it; Sharma et al. (Learning to Multi-Task by Active Sampling, ICLR 2018) divide. All have the same probability in
    the first epoch, and where no task is behind. A task without a score counts as the mean of the others.

    Args:
        reference: The score to compare with, for each task by one of its metrics on validation data:
            `sentiment/valid/accuracy: 0.91`.
        exploration: `ε`, from 0 to 1: the share of the steps that all tasks have alike, so that none is forgotten.
    """

    wants_scores = True

    def __init__(self, reference: Mapping[str, float], exploration: float = 0.0) -> None:
        self.reference: dict[str, tuple[str, float]] = {}
        for criterion, value in reference.items():
            task, _, metric = criterion.partition("/valid/")
            if not task or not metric:
                raise UserError(
                    f"'{criterion}' in reference names no score. Write task/valid/metric, for example "
                    f"{criterion.partition('/')[0]}/valid/accuracy."
                )
            if task in self.reference:
                raise UserError(f"reference has two values for the task '{task}', but one is compared with.")
            if not math.isfinite(value) or value == 0:
                raise UserError(f"reference has {value:g} for '{criterion}': a gap relative to it has no value.")
            self.reference[task] = metric, value
        if not 0 <= exploration <= 1:
            raise UserError(f"exploration is {exploration:g}, but must be from 0 to 1.")
        self.exploration = exploration
        self._gaps: dict[str, float] = {}

    def check(self, turns: Sequence[Turn] | None, tasks: Metrics) -> None:
        """See `Order.check`."""
        for task, (metric, _) in self.reference.items():
            if task not in tasks:
                raise UserError(f"reference names no task '{task}'.{closest(task, tasks)} The tasks: {listing(tasks)}.")
            known = tasks[task]
            if known is not None and metric not in known:
                raise UserError(
                    f"reference names no metric of '{task}': '{metric}'.{closest(metric, known)} "
                    f"Allowed: {listing(known)}."
                )
        missing = [task for task in tasks if task not in self.reference]
        if missing:
            raise UserError(f"reference has no value for {listing(missing)}. Give one for each task.")

    def shares(self, sizes: Mapping[Turn, int], epoch: int) -> dict[Turn, float]:
        """See `Order.shares`."""
        turns = list(sizes)
        mean = sum(self._gaps.values()) / len(self._gaps) if self._gaps else 1.0
        behind = in_proportion(turns, [mean_of_known(turn, self._gaps, mean) for turn in turns])
        alike = self.exploration / len(turns)
        return {turn: (1 - self.exploration) * share + alike for turn, share in behind.items()}

    def epoch_end(self, report: EpochReport) -> None:
        """See `Order.epoch_end`."""
        for task, (metric, reference) in self.reference.items():
            score = report.scores.get(task, {}).get(metric, math.nan)
            if math.isfinite(score):
                behind = reference - score if report.higher_is_better[metric] else score - reference
                self._gaps[task] = max(0.0, behind) / abs(reference)

    def state_dict(self) -> dict[str, Any]:
        """See `Order.state_dict`."""
        return {"gaps": dict(self._gaps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Order.load_state_dict`."""
        self._gaps = dict(state["gaps"])
