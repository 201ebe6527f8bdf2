"""Weights from how far each task still is from its optimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from polytask.balancing.jacobian_balancer import JacobianBalancer
from polytask.balancing.per_task import PerTask
from polytask.balancing.task_vectors import TaskVectors
from polytask.errors import UserError


class ExcessMTL(JacobianBalancer):
    """ExcessMTL: more weight for the tasks with more excess risk, the part of the loss that can still be trained away.

    From He, Zhou, Zhang, Yun, Xu, Zeng, Chilimbi and Zhao, "Robust Multi-Task Learning with Excess Risks", ICML 2024.
    By the loss itself a task with noisy labels looks badly trained for ever. The excess risk is estimated to second
    order instead, by `e_k = g_kᵀ diag(H_k)^(-1/2) g_k` with the sum of the squares of all its gradients so far for
    `H_k`, as in AdaGrad. Relative to what it was at the start, it moves the weights: `w_k <- w_k exp(step_size e_k /
    e_k(0)) / Z`. The update is the weighted sum of the gradients.

    The weights sum to 1 as in the paper (`sum_to_one`), or to K as in the official code (`sum_to_k`), whose step size
    is the default here too. They only ever differ more: a task keeps what it gained, and as the squares add up, `e_k`
    falls even for a gradient that stays the same. Tasks that are not in a step keep their place among the others. The
    parameters of one task alone get the gradient of its plain loss.

    Memory: one gradient for each task, K x P numbers.

    Args:
        step_size: How fast the weights move.
        warmup_steps: The steps of a task whose average estimate is the `e_k(0)` of all later ones, at least 1, as in
            the official code; meanwhile its weight does not move. The paper takes three epochs.
        normalize: What the weights sum to: 1 (`sum_to_one`) or the number of tasks (`sum_to_k`).
        eps: What is added to the sums of squares, as in the official code.

    Raises:
        UserError: A parameter is out of range, or, in a step, the shared parameters are other ones than before.
    """

    paper = "He, Zhou, Zhang, Yun, Xu, Zeng, Chilimbi and Zhao, Robust Multi-Task Learning with Excess Risks, ICML 2024"
    year = 2024

    def __init__(
        self,
        step_size: float = 0.01,
        warmup_steps: int = 1,
        normalize: Literal["sum_to_one", "sum_to_k"] = "sum_to_one",
        eps: float = 1e-7,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not 0 < step_size < math.inf:
            raise UserError(f"excess_mtl: step_size is {step_size}, but must be above 0.")
        if warmup_steps < 1:
            raise UserError(f"excess_mtl: warmup_steps is {warmup_steps}, but must be at least 1.")
        if normalize not in ("sum_to_one", "sum_to_k"):
            raise UserError(f"excess_mtl: normalize is '{normalize}', but must be 'sum_to_one' or 'sum_to_k'.")
        if not 0 < eps < math.inf:
            raise UserError(f"excess_mtl: eps is {eps}, but must be above 0.")
        self.step_size, self.warmup_steps, self.normalize, self.eps = step_size, warmup_steps, normalize, eps
        self.squares = TaskVectors("excess_mtl", ["average"])
        self.progress = PerTask({"log_weight": 0.0, "start": 0.0, "warm": 0.0, "steps": 0.0})

    def combine(self, jacobian: Tensor) -> Tensor:
        """See `JacobianBalancer.combine`."""
        tasks = self.tasks_of(jacobian)
        log_weights, start, warm, steps = (
            self.progress.read(field, tasks, jacobian.device) for field in ("log_weight", "start", "warm", "steps")
        )
        valid = torch.linalg.vector_norm(jacobian).isfinite()
        excess = self._excess(jacobian, tasks, steps + 1, valid).to(steps.dtype)
        ready = warm >= self.warmup_steps
        relative = (excess / start.where(start > 0, 1.0)).where(ready, 0.0)
        # Against the average, which changes nothing between tasks that are there, and is fair to those that are not.
        gains = (relative - relative.sum() / ready.sum().clamp(min=1)).where(ready & valid, 0.0)
        log_weights = log_weights + self.step_size * gains
        # A gradient of 0 says nothing about the start.
        warms = valid & ~ready & (excess > 0)
        self.progress.write("log_weight", tasks, log_weights)
        self.progress.write("start", tasks, start.lerp(excess.where(warms, start), 1 / (warm + 1)))
        self.progress.write("warm", tasks, warm + warms)
        self.progress.write("steps", tasks, steps + valid)
        weights: Tensor = log_weights.softmax(0).to(jacobian.dtype)
        if self.normalize == "sum_to_k":
            weights = weights * len(weights)
        self.weight_values = weights.detach()
        return weights @ jacobian

    def _excess(self, jacobian: Tensor, tasks: Sequence[str], steps: Tensor, valid: Tensor) -> Tensor:
        """`[K]`, the estimates of the excess risks in the step of these numbers for each task."""
        self.squares.add(tasks, jacobian)
        averages = self.squares.follow("average", tasks, (row.square() for row in jacobian), 1 / steps, valid)
        sums = zip(jacobian, averages, steps.to(jacobian.dtype), strict=True)
        # A row at a time, as whole matrices in between would cost more memory than the averages.
        return torch.stack([(row.square() / (average * step + self.eps).sqrt()).sum() for row, average, step in sums])
