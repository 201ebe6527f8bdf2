"""Weights from the tasks' homoscedastic uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from polytask.balancing.adam import TaskAdam
from polytask.balancing.learned import read_learned
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import TaskParameters
from polytask.errors import UserError


class Uncertainty(LossBalancer):
    """Uncertainty weighting: `L = sum_k (exp(-s_k) L_k + s_k) / 2`.

    From Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics", CVPR 2018. `s_k = log sigma_k²` is a learned log-variance of task k, 0 at the start, so that every task
    starts with the weight 1/2. For a constant loss it tends to `s_k = log L_k`, that is the weight `1 / (2 L_k)`: in
    the long run the method divides each loss by itself, with a lag.

    The paper derives `L_k / (2 sigma_k²) + log sigma_k` for a squared error and, approximately, `L_k / sigma_k² + log
    sigma_k` for a cross-entropy. The method cannot tell which a loss is and takes the first form for all; a task weight
    of 2 gives the second. Losses have to be positive: for a negative one `s_k` falls without end.

    Args:
        lr: Learning rate of an Adam that moves the log-variances in each `backward`. None: they are parameters of the
            balancer, for your optimiser: call `prepare(task_names)`, then give it `balancer.parameters()` too, best
            without weight decay.

    Raises:
        UserError: The learning rate is not positive.
    """

    paper = (
        "Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and "
        "Semantics, CVPR 2018"
    )
    year = 2018

    def __init__(self, lr: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        if lr is not None and not lr > 0:
            raise UserError(f"uncertainty: lr is {lr}, but must be above 0, or None for your own optimiser.")
        self.log_variances: TaskParameters | TaskAdam = TaskParameters(0.0) if lr is None else TaskAdam(0.0, lr)

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.log_variances.add(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        s = read_learned(self.log_variances, self.tasks_of(losses), losses.device, "uncertainty: the log-variances")
        return ((-s).exp() * losses + s).sum() / 2

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: with a learning rate of its own, move the log-variances."""
        if isinstance(self.log_variances, TaskAdam):
            s = self.log_variances.read("value", self.present, losses.device)
            self.log_variances.step(self.present, (1 - (-s).exp() * losses) / 2)
