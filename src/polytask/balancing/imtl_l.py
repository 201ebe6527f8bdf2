"""Learned scales that bring all losses to the same size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from polytask.balancing.adam import TaskAdam
from polytask.balancing.learned import read_learned
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import TaskParameters
from polytask.errors import UserError


class IMTLL(LossBalancer):
    """Loss balance of impartial multi-task learning (IMTL-L): `L = sum_k (exp(s_k) L_k - s_k)`.

    From Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, "Towards Impartial Multi-task Learning", ICLR 2021. `s_k` is
    the learned logarithm of the scale of task k, 0 at the start, so that every task starts with the weight 1. For a
    constant loss it tends to `s_k = -log L_k`, where every scaled loss `exp(s_k) L_k` is 1: in the long run the method
    divides each loss by itself, with a lag. The weights have no fixed sum. It is uncertainty weighting but for a factor
    of 2, with no assumption on what the losses are.

    Losses have to be positive: for one that stays at 0 or below, `s_k` and with it the weight grow without end.

    Args:
        lr: Learning rate of an Adam that moves the scales in each `backward`. None: their logarithms are parameters of
            the balancer, for your optimiser: call `prepare(task_names)`, then give it `balancer.parameters()` too, best
            without weight decay.

    Raises:
        UserError: The learning rate is not positive.
    """

    paper = "Liu et al., Towards Impartial Multi-task Learning, ICLR 2021"
    year = 2021

    def __init__(self, lr: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        if lr is not None and not lr > 0:
            raise UserError(f"imtl_l: lr is {lr}, but must be above 0, or None for your own optimiser.")
        self.log_scales: TaskParameters | TaskAdam = TaskParameters(0.0) if lr is None else TaskAdam(0.0, lr)

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.log_scales.add(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        s = read_learned(self.log_scales, self.tasks_of(losses), losses.device, "imtl_l: the scales")
        return (s.exp() * losses - s).sum()

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: with a learning rate of its own, move the scales."""
        if isinstance(self.log_scales, TaskAdam):
            s = self.log_scales.read("value", self.present, losses.device)
            self.log_scales.step(self.present, s.exp() * losses - 1)
