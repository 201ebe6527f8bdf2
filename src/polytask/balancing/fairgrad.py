"""Fair allocation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.matrix_free import MatrixFreeBalancer
from polytask.errors import UserError


class FairGrad(MatrixFreeBalancer):
    """FairGrad: α-fair gains of the tasks, `G w = w^(-1/α)` with `w > 0`.

    From Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024. Among the directions of one length it
    takes the one of the greatest `sum_k u_k^(1-α) / (1-α)` of the gains `u_k = d · g_k`. With α towards 0 it is the sum
    of the gradients, 1 is Nash-MTL without its limit on the length, 2 gives the least potential delay, and with α
    towards infinity only the least gain counts.

    The weights' own scale is `|g|^(-2α / (1+α))`, for α = 2 `|g|^(-4/3)`: of no fixed sum, and the update grows as
    gradients shrink if α is above 1. The official code caps the length of the update at 1 (in your own loop, clip the
    gradients). It solves for the weights by least squares from `1/K`; here they are exact, by Newton's method.

    Where gradients, with factors above 0, cancel, there is no solution; near that the weights grow without bound. From
    a cancellation to about 1e-5 on, the weights are those for gradients that have another part of that share at right
    angles to all others, large and finite, and the update goes to 0. A task with a gradient of 0 has the weight 0. With
    α of 10 and more, tasks that gain more than others get weights of next to nothing.

    Args:
        alpha: How much fairness counts, above 0.

    Raises:
        UserError: `alpha` is not positive.
    """

    paper = "Ban and Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024"
    year = 2024
    domain = "positive"

    def __init__(self, alpha: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < alpha < math.inf:
            raise UserError(f"fairgrad: alpha is {alpha}, but must be a number above 0.")
        self.alpha = alpha

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        from polytask.balancing.solvers.fairness import fairness

        known = gramian.detach().cpu().double().numpy()
        return torch.from_numpy(fairness(known, 1 / self.alpha)).to(gramian)

    def online_direction(self, weights: Tensor) -> Tensor:
        """See `MatrixFreeBalancer.online_direction`: the weights."""
        return weights

    def online_gradient(self, weights: Tensor, product: Tensor) -> Tensor:
        """See `MatrixFreeBalancer.online_gradient`: of `w·Gw / 2 - sum_k w_k^(1-1/α) / (1-1/α)`."""
        return product - weights ** (-1 / self.alpha)
