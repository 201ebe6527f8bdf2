"""Random weights."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer
from polytask.errors import UserError


class RandomWeights(LossBalancer):
    """Random loss weighting (RLW): new weights at every step, whatever the losses are.

    From Lin, Ye, Zhang and Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
    Learning", TMLR 2022: what a method gains over this, it owes to its weights. They sum to 1 and are `1 / K` each on
    average, so that the update is that of the mean of the losses, with noise; `normalize="sum_to_k"` makes it that of
    their sum.

    A step in which some tasks are absent draws for those that are present. Each call of `combine` draws anew.

    Args:
        distribution: What the weights are drawn from: `normal`, the softmax of independent standard normal numbers, or
            `dirichlet`, evenly from all weights that sum to 1 (more extreme).
        seed: Of the balancer's own random numbers.

    Raises:
        UserError: There is no such distribution.
    """

    paper = "Lin et al., Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning, TMLR 2022"
    year = 2022

    def __init__(self, distribution: Literal["normal", "dirichlet"] = "normal", seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        if distribution not in ("normal", "dirichlet"):
            raise UserError(f"random: distribution is '{distribution}', but must be 'normal' or 'dirichlet'.")
        self.distribution = distribution
        self._random = torch.Generator().manual_seed(seed)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        if self.distribution == "normal":
            weights = torch.randn(len(losses), generator=self._random).softmax(0)
        else:
            shares = torch.empty(len(losses)).exponential_(generator=self._random)
            weights = shares / shares.sum()
        return (weights.to(losses.device, non_blocking=True) * losses).sum()

    def get_extra_state(self) -> Tensor:
        """Where the random numbers are."""
        return self._random.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Go on with the random numbers from there."""
        self._random.set_state(state.cpu())
