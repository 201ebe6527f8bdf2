"""Weights from the standard deviations of the losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import PerTask
from polytask.errors import UserError


class SLAW(LossBalancer):
    """Scaled loss approximate weighting (SLAW): `w_k = K (1 / s_k) / sum_j (1 / s_j)`.

    From Crawshaw and Košecká, "SLAW: Scaled Loss Approximate Weighting for Efficient Multi-Task Learning", arXiv 2021.
    `s_k` is the standard deviation of the loss of task k over the last steps, by moving averages: `s² = mean(L²) -
    mean(L)²`. All losses see the same moves of the shared parameters, under which a loss varies about in proportion to
    the norm of its gradient: so the weighted gradients of all tasks have about equal norms, without any of them being
    computed. Scaling a loss scales its weight by the inverse. The weights sum to K.

    As in the official code, the averages are plain means over the first `1 / (1 - beta)` steps, which removes the bias
    of the start, the loss of the step itself is among them, deviations below 1e-5 count as 1e-5, and the weights are 1
    in the first step; here, in all steps with a task that has not been seen before. The variance is computed by an
    equal recurrence that does not cancel. An absent task keeps its averages. Losses that are not finite are left out.

    Noise counts as a gradient: a task with a noisy loss gets a small weight. A loss that stands still, such as one that
    stays exactly 0, draws almost all the weight away from the others.

    Args:
        beta: How much of the averages stays at each step, above 0, up to 1 (the mean over all steps).

    Raises:
        UserError: `beta` is out of range.
    """

    paper = (
        "Crawshaw and Košecká, SLAW: Scaled Loss Approximate Weighting for Efficient Multi-Task Learning, arXiv 2021"
    )
    year = 2021

    def __init__(self, beta: float = 0.99, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < beta <= 1:
            raise UserError(f"slaw: beta is {beta}, but must be above 0 and at most 1.")
        self.beta = beta
        self.statistics = PerTask({"mean": 0.0, "variance": 0.0, "steps": 0.0})

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.statistics.add(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        _, variance, steps = self._updated(self.tasks_of(losses), losses.detach())
        inverse = 1 / variance.sqrt().clamp(min=1e-5)
        weights = torch.where((steps >= 2).all(), len(losses) * inverse / inverse.sum(), 1.0)
        return (weights * losses).sum()

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: take the losses into the averages."""
        updated = self._updated(self.present, losses)
        for field, values in zip(("mean", "variance", "steps"), updated, strict=True):
            self.statistics.write(field, self.present, values)

    def _updated(self, tasks: Sequence[str], losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean, the variance and the number of steps with the losses `[K]` taken in."""
        mean, variance, steps = (
            self.statistics.read(field, tasks, losses.device) for field in ("mean", "variance", "steps")
        )
        losses = losses.to(mean.dtype)
        finite = losses.isfinite()
        share = (1 / (steps + 1)).clamp(min=1 - self.beta).where(finite, 0.0)
        change = (losses - mean).where(finite, 0.0)
        return mean + share * change, (1 - share) * (variance + share * change.square()), steps + finite
