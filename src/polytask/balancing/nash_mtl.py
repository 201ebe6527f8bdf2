"""The bargaining solution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.matrix_free import MatrixFreeBalancer
from polytask.errors import UserError


class NashMTL(MatrixFreeBalancer):
    """Nash-MTL: the direction of the greatest product of the tasks' gains, `G w = 1 / w` with `w > 0`.

    From Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik and Fetaya, "Multi-Task Learning as a Bargaining Game",
    ICML 2022. The direction maximises `sum_k log(d · g_k)` among those of one length: every task gains, and in any
    other direction the gains change, relative to what they are, by less than 0 in sum. Scaling a task's loss changes
    nothing, neither the direction nor the length of the update: the weights are of the scale of `1 / |g|`.

    `Jᵀ w` has the length `sqrt(K)` whatever the gradients, also near a minimum. Like the paper's code, the method caps
    the length at `max_norm`; with the default, the update always has the length 1, and the learning rate alone decides
    how far a step goes. The code caps the accumulated `.grad` of the shared parameters, this each update by itself.

    The paper's code solves a sequence of convex approximations, 20 at most, which can stop short of the solution; here
    it is exact, a convex problem for Newton's method. Where gradients, with factors above 0, cancel, there is no
    solution; near that the weights grow without bound. From a cancellation to about 1e-5 on, the weights are those for
    gradients that have another part of that share at right angles to all others: large, at most about `1e5 / |g|`, and
    finite, and the update goes to 0. With `weight_heads`, the tasks' own parameters get them too. A task with a
    gradient of 0 has the weight 0.

    With `matrix_free`, the factor from `sqrt(K)` to `max_norm`, which is right once the weights have been learned,
    applies at all times.

    Args:
        max_norm: The most that the length of the update may be; null: no limit.

    Raises:
        UserError: The limit is not positive.
    """

    paper = "Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022"
    year = 2022
    domain = "positive"

    def __init__(self, max_norm: float | None = 1.0, **options: Any) -> None:
        super().__init__(**options)
        if max_norm is not None and not max_norm > 0:
            raise UserError(f"nash_mtl: max_norm is {max_norm}, but must be above 0, or null for no limit.")
        self.max_norm = max_norm

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        from polytask.balancing.solvers.fairness import fairness

        known = gramian.detach().cpu().double()
        weights = torch.from_numpy(fairness(known.numpy(), 1.0))
        if self.max_norm is not None:
            length = math.sqrt(max(float(weights @ known @ weights), 0.0))
            weights = weights * (self.max_norm / max(length, self.max_norm))
        return weights.to(gramian)

    def online_direction(self, weights: Tensor) -> Tensor:
        """See `MatrixFreeBalancer.online_direction`: the weights, with the limit for a solution."""
        return weights * self._limit(len(weights))

    def online_gradient(self, weights: Tensor, product: Tensor) -> Tensor:
        """See `MatrixFreeBalancer.online_gradient`: of `w·Gw / 2 - sum(log w)`."""
        return product / self._limit(len(weights)) - 1 / weights

    def _limit(self, tasks: int) -> float:
        return 1.0 if self.max_norm is None else min(1.0, self.max_norm / math.sqrt(tasks))
