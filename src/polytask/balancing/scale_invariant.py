"""The sum of the logarithms of the losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer
from polytask.errors import UserError


class ScaleInvariant(LossBalancer):
    """Scale-invariant sum: `L = sum_k log L_k`, that is the weight `1 / L_k`.

    The baseline of that name in Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik and Fetaya, "Multi-Task Learning
    as a Bargaining Game", ICML 2022. Multiplying a loss by a constant changes nothing. It is what `uncertainty` and
    `imtl_l` tend to, without their lag. The weights have no fixed sum: they grow as the losses fall.

    Losses have to be positive. A task whose loss is 0 or below gets the weight 0 in that step (below the least normal
    number of its type, to be exact), where the formula has no value. A loss that comes close to 0 gets a great weight:
    the gradient of a squared error `d²` then becomes `2 / d`.

    Raises:
        UserError: `log_losses` is set, which would take the logarithm twice.
    """

    paper = "Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022"
    year = 2022

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.log_losses:
            raise UserError("scale_invariant: log_losses cannot be set: the method takes the logarithms itself.")

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        return log_sum(losses)


def log_sum(losses: Tensor) -> Tensor:
    """The sum of the logarithms of those of the losses `[K]` that are positive."""
    # Of smaller numbers the inverse overflows.
    positive = losses >= torch.finfo(losses.dtype).tiny
    return losses.where(positive, 1.0).log().sum()
