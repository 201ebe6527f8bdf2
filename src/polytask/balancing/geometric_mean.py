"""The geometric mean of the losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer
from polytask.errors import UserError


class GeometricMean(LossBalancer):
    """Geometric loss strategy (GLS): `L = (prod_k L_k)^(1/K)`.

    From Chennupati, Sistu, Yogamani and Rawashdeh, "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss
    Strategy for Multi-Task Learning", CVPR Workshops 2019. The weight of task k is `L / (K L_k)`: the direction of
    `scale_invariant`, with a length that falls with the losses. The weights have no fixed sum; for equal losses it is
    1. Computed through logarithms, so that the product of many losses neither overflows nor vanishes.

    Losses have to be positive. A task whose loss is 0 or below is left out of the mean and gets the weight 0 in that
    step: by the formula one loss of 0 would stop the training of all other tasks. Just above 0 it does so: as one loss
    approaches 0, the weights of the others do too.

    Raises:
        UserError: `log_losses` is set: the logarithm of a loss below 1 is negative, and has no geometric mean.
    """

    paper = (
        "Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task "
        "Learning, CVPR Workshops 2019"
    )
    year = 2019

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.log_losses:
            raise UserError("geometric_mean: log_losses cannot be set: the method needs positive numbers.")

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        positive = losses >= torch.finfo(losses.dtype).tiny
        return (losses.where(positive, 1.0).log().sum() / positive.sum().clamp(min=1)).exp()
