"""The mean gradient, projected so that it conflicts with no task's."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask.balancing.preference import PreferenceBalancer


class DualProj(PreferenceBalancer):
    """DualProj: the nearest vector to the mean gradient that conflicts with no task's gradient.

    From Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, where it keeps a new
    task from undoing earlier ones; the name is that of Quinton and Rey (2024). With the preference p (1/K for every
    task where there is none), the weights are `argmin v·Gv, v >= p`, and the update is the projection of `sum_k p_k
    g_k` onto the dual cone, the directions whose product with no gradient is negative.

    No task's loss rises with a small enough step. The weights are at least p, and more where gradients conflict: the
    scale is that of the mean of the gradients, 1/K of a sum. Long gradients decide the mean, and short ones that
    conflict with it are made perpendicular to the update, no more. Where no direction helps all tasks, the update is 0.
    """

    paper = "Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017"
    year = 2017
    method = "dual_proj"

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        from polytask.balancing.solvers.dual_cone import dual_cone

        known = gramian.detach().cpu().double()
        shares = self.shares(known)
        return torch.from_numpy(dual_cone(known.numpy(), shares[None].numpy())[0]).to(gramian)
