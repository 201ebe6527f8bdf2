"""Adam for each task by itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.jacobian_balancer import JacobianBalancer
from polytask.balancing.per_task import PerTask
from polytask.balancing.task_vectors import TaskVectors
from polytask.errors import UserError


class AdaTask(JacobianBalancer):
    """AdaTask: the sum over the tasks of the steps that Adam would take for each by itself.

    From Yang, Pan, Wang, Yu, Shen, Chen, Xiao, Jiang and Guo, "AdaTask: A Task-Aware Adaptive Learning Rate Approach to
    Multi-Task Learning", AAAI 2023. In Adam the gradients of all tasks share one average of squares, in which the
    greatest ones dominate; here each task has its own averages m and v, and the update is `sum_k m̂_k / (sqrt(v̂_k) +
    eps)`, with Adam's corrections for the start. So each task moves each shared parameter at about the same speed, and
    the scale of a loss does not matter.

    The update is a step already, each of its numbers up to about K: train the shared parameters with plain SGD,
    without momentum, at the learning rate that Adam would have. Adam would divide the update by its size once more, and
    clipping by norm would shorten every step. The weight decay of that SGD is then the one of AdamW. The tasks' own
    parameters get their plain gradients, for which the paper uses Adam: give them an optimiser of their own.

    The averages of a task stand still in steps without it, and it then adds nothing. A task whose gradient is noise is
    given the same speed as the others.

    Memory: two gradients for each task, 2 K x P numbers.

    Args:
        betas: Adam's: how much of the averages of the gradient and of its square stays in a step.
        eps: Adam's: added to the root of the squares.

    Raises:
        UserError: A parameter is out of range, or, in a step, the shared parameters are other ones than before.
    """

    paper = "Yang et al., AdaTask: A Task-Aware Adaptive Learning Rate Approach to Multi-Task Learning, AAAI 2023"
    year = 2023

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **options: Any) -> None:
        super().__init__(**options)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"adatask: betas are {betas}, but must be two numbers from 0 to below 1.")
        if not eps > 0:
            raise UserError(f"adatask: eps is {eps}, but must be above 0.")
        self.betas, self.eps = betas, eps
        self.averages = TaskVectors("adatask", ["gradient", "square"])
        self.progress = PerTask({"steps": 0.0})

    def combine(self, jacobian: Tensor) -> Tensor:
        """See `JacobianBalancer.combine`."""
        tasks = self.tasks_of(jacobian)
        valid = jacobian.sum().isfinite()
        steps = self.progress.read("steps", tasks, jacobian.device)
        self.averages.add(tasks, jacobian)
        first, second = (torch.full_like(steps, 1 - beta) for beta in self.betas)
        means = self.averages.follow("gradient", tasks, jacobian, first, valid)
        squares = self.averages.follow("square", tasks, (row.square() for row in jacobian), second, valid)
        self.progress.write("steps", tasks, steps + valid)
        # 1 - beta^t, in a way that is exact in float32 too.
        first, second = (
            -torch.expm1((steps + 1) * math.log(max(beta, 1e-300))).to(jacobian.dtype) for beta in self.betas
        )
        # Not finite where the gradients are not, so that a scaler leaves the step out.
        first = first * valid
        update = torch.zeros_like(jacobian[0])
        for mean, square, share, square_share in zip(means, squares, first, second, strict=True):
            update += (mean / share) / (square / square_share).sqrt_().add_(self.eps)
        return update
