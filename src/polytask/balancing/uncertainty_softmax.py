"""Weights from the inverse losses, by a softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer
from polytask.errors import UserError


class UncertaintySoftmax(LossBalancer):
    """Soft optimal uncertainty weighting (UW-SO): `w = softmax((1 / L) / T)`, taken as a constant.

    From Kirchdorfer, Elich, Kutsche, Stuckenschmidt, Schott and Köhler, "Analytical Uncertainty-Based Loss Weighting in
    Multi-Task Learning", GCPR 2024 (extended version in IJCV, 2025). For a constant loss the weights of uncertainty
    weighting tend to `1 / L`; the method takes these at once, without learning and its lag, and normalises them by a
    softmax with the temperature `T`. The weights sum to 1.

    The best `T` depends on the scale of the losses: they act on the weights through `1 / (T L)`. A task whose loss is
    far below the others and below `1 / T` takes all the weight; with `T` far above `1 / L` for all, the weights are
    equal. Losses have to be positive; below 1e-8 they count as 1e-8.

    Args:
        temperature: `T`, above 0; the greater, the more equal the weights. The paper tunes it for each data set, and it
            is worth it: there is no value that suits all.

    Raises:
        UserError: The temperature is not positive.
    """

    paper = "Kirchdorfer et al., Analytical Uncertainty-Based Loss Weighting in Multi-Task Learning, GCPR 2024"
    year = 2024

    def __init__(self, temperature: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        if not temperature > 0:
            raise UserError(f"uncertainty_softmax: temperature is {temperature}, but must be above 0.")
        self.temperature = temperature

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        # Half precision has no 1e-8.
        values = losses.detach().to(torch.promote_types(losses.dtype, torch.float32))
        weights = (1 / (values.clamp(min=1e-8) * self.temperature)).softmax(0)
        return (weights * losses).sum()
