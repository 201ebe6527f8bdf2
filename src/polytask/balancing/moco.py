"""MGDA on averaged gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.jacobian_balancer import JacobianBalancer
from polytask.balancing.per_task import PerTask
from polytask.balancing.task_vectors import TaskVectors
from polytask.errors import UserError


class MoCo(JacobianBalancer):
    """MoCo: averages of the task gradients, and weights that go a step at a time to those of least norm.

    From Fernando, Shen, Liu, Chaudhury, Murugesan and Chen, "Mitigating Gradient Bias in Multi-objective Learning: A
    Provably Convergent Approach", ICLR 2023. `y_k <- y_k - β_t (y_k - g_k)` follows the gradient of task k, from 0 at
    the start; `λ <- Π(λ - γ_t (Y Yᵀ + rho I) λ)` takes one projected step towards the least norm of `Yᵀ λ` on the
    simplex, and `Yᵀ λ` is the update. With decreasing rates the noise of the batches averages out, which biases MGDA.
    The rates in the t-th step of a task are `β_t = beta / t^beta_decay` and `γ_t = gamma / t^gamma_decay`.

    λ starts at 1/K; its sum stays 1, so that the update is about 1/K of the sum of the gradients, and shorter still
    until the averages have grown. γ has to fit the gradients' size: where `gamma |g|²` is far above 1, each step of λ
    goes to a corner. The code that the authors gave to LibMTL therefore brings each gradient to the length of its
    loss first, and uses a softmax in the place of the projection; this follows the paper. There the weights and the
    update are of the averages before the step; here, as in that code, they are of those after it. Tasks that are not in
    a step keep their share of λ, and those that are in it divide theirs.

    Memory: one gradient for each task, K x P numbers.

    Args:
        beta: Rate of the averages, above 0 and at most 1.
        gamma: Rate of the weights, at least 0.
        rho: Regularisation of the weights towards equal ones, at least 0.
        beta_decay: How fast the rate of the averages falls with the steps, at least 0.
        gamma_decay: How fast the rate of the weights does, at least 0.

    Raises:
        UserError: A parameter is out of range, or, in a step, the shared parameters are other ones than before.
    """

    paper = (
        "Fernando et al., Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach, "
        "ICLR 2023"
    )
    year = 2023

    def __init__(
        self,
        beta: float = 0.5,
        gamma: float = 0.1,
        rho: float = 0.0,
        beta_decay: float = 0.5,
        gamma_decay: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not 0 < beta <= 1:
            raise UserError(f"moco: beta is {beta}, but must be above 0 and at most 1.")
        numbers = {"gamma": gamma, "rho": rho, "beta_decay": beta_decay, "gamma_decay": gamma_decay}
        for name, value in numbers.items():
            if not 0 <= value < math.inf:
                raise UserError(f"moco: {name} is {value}, but must be a number of at least 0.")
        self.beta, self.gamma, self.rho = beta, gamma, rho
        self.beta_decay, self.gamma_decay = beta_decay, gamma_decay
        self.averages = TaskVectors("moco", ["gradient"])
        self.progress = PerTask({"steps": 0.0, "share": 1.0})

    def combine(self, jacobian: Tensor) -> Tensor:
        """See `JacobianBalancer.combine`."""
        tasks = self.tasks_of(jacobian)
        valid = jacobian.sum().isfinite()
        steps, shares = (self.progress.read(field, tasks, jacobian.device) for field in ("steps", "share"))
        self.averages.add(tasks, jacobian)
        rates = self.beta / (steps + 1) ** self.beta_decay
        averages = self.averages.follow("gradient", tasks, jacobian, rates, valid)
        total = shares.sum()
        weights = torch.where(total > 0, shares / total, 1 / len(shares)).to(jacobian.dtype)
        slope = averages @ (weights @ averages) + self.rho * weights
        rates = self.gamma / (steps + 1) ** self.gamma_decay
        weights = _on_simplex(weights - rates.to(jacobian.dtype) * slope)
        self.progress.write("steps", tasks, steps + valid)
        self.progress.write("share", tasks, torch.where(valid, (weights * total).to(shares.dtype), shares))
        # Not finite where the gradients are not, so that a scaler leaves the step out.
        return (weights / valid) @ averages


def _on_simplex(point: Tensor) -> Tensor:
    """The nearest point `[K]` with numbers of at least 0 that sum to 1."""
    # Only numbers within 1 of the greatest matter: sums from there are exact where the numbers are far from 0.
    point = point - point.max()
    ordered = point.sort(descending=True).values
    counts = torch.arange(1, len(point) + 1, dtype=point.dtype, device=point.device)
    return (point - ((ordered.cumsum(0) - 1) / counts).max()).clamp(min=0)
