"""An update that goes equally far along each task's gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.unit_gradients import projecting


class IMTLG(GramianBalancer):
    """IMTL-G, impartial learning by gradients: the update has the same projection onto each task's gradient.

    From Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, "Towards Impartial Multi-task Learning", ICLR 2021. The
    weights solve `d · g_k / |g_k| = d · g_1 / |g_1|` for all k, `d = sum_k w_k g_k`, with sum 1: `G w` is in proportion
    to the lengths `|g_k|`. The direction of the update does not depend on the scales of the losses.

    The weights sum to 1, but can be negative, and grow without limit where those of both signs nearly cancel: when
    training diverges, this is why (`log_losses` and `smoothing` help). Where their sum is 0, so that no such update is
    there, as for opposite gradients, all are 1/K. Gradients that depend on each other are solved by the pseudo-inverse,
    and with those of length 0 left out; the paper's closed form, which takes differences to the first task's gradient,
    fails on them.
    """

    paper = "Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, Towards Impartial Multi-task Learning, ICLR 2021"
    year = 2021

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        return impartial(gramian.double()).to(gramian.dtype)


def impartial(gramian: Tensor) -> Tensor:
    """The weights `[K]` of sum 1 for the same projection of the update onto each gradient of a Gramian in float64."""
    weights = projecting(gramian, torch.ones_like(gramian[0]))
    total = weights.sum()
    there = total.abs() > 1e-12 * weights.abs().sum()
    return (weights / total.where(there, 1.0)).where(there, 1 / len(weights))
