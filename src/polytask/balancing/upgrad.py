"""Gradients that are projected one by one, so that none conflicts with any."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask.balancing.preference import PreferenceBalancer


class UPGrad(PreferenceBalancer):
    """UPGrad, Jacobian descent: the mean of the gradients, after each is projected onto the dual cone of all.

    From Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232, 2024. The dual cone is
    the set of all directions whose product with no task's gradient is negative; projected on it, `p_k g_k` is `Jᵀ v_k`
    with `v_k = argmin v·Gv, v >= p_k e_k`, where p is the preference (1/K for every task where there is none). The
    weights are `sum_k v_k`.

    No task's loss rises with a small enough step. The weights are at least p, and more where gradients conflict: the
    scale is that of the mean of the gradients, 1/K of a sum. Scaling a task's loss scales its part of the update alike
    (`log_losses` makes that indifferent). Where no direction helps all tasks, at a Pareto-stationary point, the update
    is 0. The authors' library adds 1e-4 to the diagonal of the normalised Gramian; here the projections are exact,
    which matters with gradients of very different lengths.
    """

    paper = "Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, arXiv 2406.16232, 2024"
    year = 2024
    method = "upgrad"

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        from polytask.balancing.solvers.dual_cone import dual_cone

        known = gramian.detach().cpu().double()
        shares = self.shares(known)
        return torch.from_numpy(dual_cone(known.numpy(), shares.diag().numpy()).sum(0)).to(gramian)
