"""Weights from how much the losses vary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import PerTask


class CoefficientOfVariation(LossBalancer):
    """CoV weighting: `w_k = c_k / sum_j c_j`, with the coefficient of variation `c_k = deviation / mean` of `l_k`.

    From Groenendijk, Karaoglu, Gevers and Mensink, "Multi-Loss Weighting with Coefficient of Variations", WACV 2021.
    `l_k` is the loss over its mean up to the step before, and `c_k` is taken over all steps so far: a loss that still
    moves, up or down, counts more than one that stands still. Scaling a loss changes nothing. The weights sum to 1.

    As in the official code, the weights of a step come from the steps before it (Welford's running statistics, the
    variance over all `t` steps with 1e-8 added), and the first two steps have equal weights; here, all steps in which
    some task was seen fewer than twice before. Its option of means that decay is left out: they decay while the sum of
    squares does not. An absent task keeps its statistics. A loss whose mean so far is 0 has the ratio 1. Losses that
    are not finite are left out.

    Noise counts as movement: a task with a noisy loss, or small batches, gets a great weight. As all steps count the
    same, the weights hardly move late in the training. Losses have to be of one sign.
    """

    paper = "Groenendijk et al., Multi-Loss Weighting with Coefficient of Variations, WACV 2021"
    year = 2021

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.statistics = PerTask({"loss": 0.0, "ratio": 0.0, "squares": 0.0, "steps": 0.0})

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.statistics.add(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        tasks = self.tasks_of(losses)
        ratio, squares, steps = (
            self.statistics.read(field, tasks, losses.device) for field in ("ratio", "squares", "steps")
        )
        variation = (squares / steps + 1e-8).sqrt() / ratio.abs()
        weights = torch.where((steps >= 2).all(), variation / variation.sum(), 1 / len(losses))
        return (weights * losses).sum()

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: take the losses into the statistics."""
        fields = ("loss", "ratio", "squares", "steps")
        loss, ratio, squares, steps = (self.statistics.read(field, self.present, losses.device) for field in fields)
        losses = losses.to(loss.dtype)
        now = torch.where(loss == 0, 1.0, losses / loss)
        mean = ratio + (now - ratio) / (steps + 1)
        finite = losses.isfinite() & now.isfinite()
        for field, before, after in (
            ("loss", loss, loss + (losses - loss) / (steps + 1)),
            ("ratio", ratio, mean),
            ("squares", squares, squares + (now - ratio) * (now - mean)),
            ("steps", steps, steps + 1),
        ):
            self.statistics.write(field, self.present, torch.where(finite, after, before))
