"""Log losses, and averaged gradients of one length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polytask.balancing.jacobian_balancer import JacobianBalancer
from polytask.balancing.per_task import PerTask
from polytask.balancing.task_vectors import TaskVectors
from polytask.errors import UserError


class DBMTL(JacobianBalancer):
    """DB-MTL, dual balancing: the gradients of the log losses, averaged over the steps and brought to one length.

    From Lin, Jiang, Ye, Zhang, Chen, Chen, Liu and Kwok, "Dual-Balancing for Multi-Task Learning", 2023
    (arXiv:2308.12029). With `g_k` the gradient of `log L_k`, `ĝ_k <- b_t ĝ_k + (1 - b_t) g_k` with `b_t = beta /
    t^sigma`, from 0 at the start, and the update is `max_j |ĝ_j| sum_k ĝ_k / |ĝ_k|`: each task has the length of the
    longest. t counts the steps that a task took part in. A task whose average is 0 adds nothing.

    The scale is that of the sum of K gradients as long as the longest. In the first steps the averages, and so the
    update, are shorter, by `1 - beta^t`. Losses have to be positive. It fails where a task's gradient is noise: its
    length is made that of the others. The heads get the gradients of the log losses, as in the paper.

    Memory: one gradient for each task, K x P numbers.

    Args:
        beta: How much of the average stays, from 0 (no averaging) to below 1. The paper chooses among 0.1, 0.5 and 0.9.
        sigma: How fast that falls with the steps, at least 0; 0 (it does not) or 0.5 in the paper.
        log_losses: See `Balancer`; True in the paper.

    Raises:
        UserError: A parameter is out of range, or, in a step, the shared parameters are other ones than before.
    """

    paper = "Lin et al., Dual-Balancing for Multi-Task Learning, arXiv:2308.12029, 2023"
    year = 2023

    def __init__(self, beta: float = 0.9, sigma: float = 0.0, log_losses: bool = True, **options: Any) -> None:
        super().__init__(log_losses=log_losses, **options)
        if not 0 <= beta < 1:
            raise UserError(f"db_mtl: beta is {beta}, but must be from 0 to below 1.")
        if not sigma >= 0:
            raise UserError(f"db_mtl: sigma is {sigma}, but must be at least 0.")
        self.beta, self.sigma = beta, sigma
        self.averages = TaskVectors("db_mtl", ["gradient"])
        self.progress = PerTask({"steps": 0.0})

    def combine(self, jacobian: Tensor) -> Tensor:
        """See `JacobianBalancer.combine`."""
        tasks = self.tasks_of(jacobian)
        valid = jacobian.sum().isfinite()
        steps = self.progress.read("steps", tasks, jacobian.device)
        self.averages.add(tasks, jacobian)
        rates = 1 - self.beta / (steps + 1) ** self.sigma
        averages = self.averages.follow("gradient", tasks, jacobian, rates, valid)
        self.progress.write("steps", tasks, steps + valid)
        lengths: Tensor = torch.linalg.vector_norm(averages, dim=1)
        # Not finite where the gradients are not, so that a scaler leaves the step out.
        return (lengths.max() / lengths.where(lengths > 0, 1.0) / valid) @ averages
