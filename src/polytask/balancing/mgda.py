"""The shortest convex combination of the gradients."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from polytask.balancing.matrix_free import MatrixFreeBalancer
from polytask.errors import UserError, listing

Scaling = Literal["none", "l2", "loss", "loss+"]


class MGDA(MatrixFreeBalancer):
    """MGDA: the shortest vector in the convex hull of the gradients, `w = argmin |Jᵀ w|²` with `w >= 0`, `sum w = 1`.

    From Désidéri, "Multiple-gradient Descent Algorithm (MGDA) for Multiobjective Optimization", Comptes Rendus
    Mathematique 2012, and, for networks, Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization",
    NeurIPS 2018. The update d has `d · g_k >= |d|²` with every task's gradient, so that a small enough step lowers all
    losses; it is 0 at a Pareto-stationary point. The authors' code finds the weights by at most 250
    Frank-Wolfe steps; here they are exact.

    The weights sum to 1, and the update is no longer than the shortest gradient, so that tasks with short gradients
    decide it: tasks that are done, or whose losses are small numbers. `scaling` divides the gradients by a number each
    before: their lengths (`l2`), the losses (`loss`), or both (`loss+`). The update is then the shortest combination of
    the scaled gradients; the weights of the gradients as they are do not sum to 1. The authors' code, where these
    scalings come from, does not divide the gradients that the weights are applied to; `unscaled` does the same, and
    there is no guarantee then that all losses fall.

    With the noise of batches the method is biased (`sdmgrad`, `modo` and `moco` address that), and where gradients
    conflict strongly it hardly moves. A task with a gradient of 0, or with a loss of 0 by which to divide, has the
    weight 0: by the letter of the problem it would have all the weight, and training would stop.

    Args:
        scaling: What the gradients are divided by: `none`, `l2`, `loss` or `loss+`.
        unscaled: Apply the weights found with scaled gradients to the gradients as they are.

    Raises:
        UserError: A parameter is out of range; or, in a step, a loss to divide by is negative.
    """

    paper = "Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018"
    year = 2018
    domain = "simplex"

    def __init__(self, scaling: Scaling = "none", unscaled: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if scaling not in ("none", "l2", "loss", "loss+"):
            raise UserError(f"mgda: scaling is '{scaling}', but must be 'none', 'l2', 'loss' or 'loss+'.")
        if self.matrix_free and scaling != "none":
            raise UserError(
                f"mgda: matrix_free does not know the gradients' lengths, so that scaling '{scaling}' is out."
            )
        self.scaling, self.unscaled = scaling, unscaled

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`.

        Raises:
            UserError: A loss to divide by is negative, or not known outside of a step.
        """
        from polytask.balancing.solvers.min_norm import min_norm

        known = gramian.detach().cpu().double()
        if self.scaling == "none":
            return torch.from_numpy(min_norm(known.numpy())).to(gramian)
        divisors = torch.ones_like(known[0])
        if self.scaling != "loss":
            divisors = known.diagonal().clamp(min=0).sqrt()
        if self.scaling != "l2":
            divisors = divisors * self._losses()
        factors = torch.where(divisors > 0, 1 / divisors, 0.0)
        shares = torch.from_numpy(min_norm((factors[:, None] * known * factors).numpy()))
        return (shares * (divisors > 0 if self.unscaled else factors)).to(gramian)

    def online_direction(self, weights: Tensor) -> Tensor:
        """See `MatrixFreeBalancer.online_direction`: the weights."""
        return weights

    def online_gradient(self, weights: Tensor, product: Tensor) -> Tensor:
        """See `MatrixFreeBalancer.online_gradient`: of `w·Gw / 2`."""
        return product

    def _losses(self) -> Tensor:
        if self.losses is None:
            raise UserError(f"mgda: scaling '{self.scaling}' needs the losses, which are known in backward alone.")
        if (self.losses < 0).any():
            bad = [task for task, loss in zip(self.present, self.losses.tolist(), strict=True) if loss < 0]
            raise UserError(
                f"mgda: scaling '{self.scaling}' divides by the losses, but that of task {listing(bad)} is negative. "
                "Use scaling 'none' or 'l2'."
            )
        return self.losses
