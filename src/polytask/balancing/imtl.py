"""Losses of one scale, and an update that goes equally far along each task's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from polytask.balancing.adam import TaskAdam
from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.imtl_g import impartial
from polytask.errors import UserError


class IMTL(GramianBalancer):
    """IMTL, impartial learning: learned scales for the losses, and equal projections for their gradients.

    From Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, "Towards Impartial Multi-task Learning", ICLR 2021. Both of
    its halves: the scales `s_k` minimise `sum_k (exp(s_k) L_k - s_k)` and bring each `exp(s_k) L_k` to 1 (IMTL-L), and
    the gradients of these scaled losses are combined with weights of sum 1 such that the update has the same projection
    onto each (IMTL-G, see `imtl_g`). The parameters of one task alone get the gradient of its scaled loss. The scales
    start at 0, so that training starts as with `imtl_g`.

    The weights reported are `exp(s_k) α_k`, those of the plain gradients, where the `α_k` sum to 1. They can be
    negative, and the losses have to be positive: the scale of one that is not stays as it is. The paper learns the
    scales with the optimiser of the model; here an Adam of their own moves them in each step.

    Args:
        lr: Learning rate of the scales.

    Raises:
        UserError: The learning rate is not positive.
    """

    paper = "Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, Towards Impartial Multi-task Learning, ICLR 2021"
    year = 2021

    def __init__(self, lr: float = 0.025, **options: Any) -> None:
        super().__init__(**options)
        if not lr > 0:
            raise UserError(f"imtl: lr is {lr}, but must be above 0.")
        self.scales = TaskAdam(0.0, lr)

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.scales.add(tasks)

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        factors = self._factors(gramian)
        scaled = gramian.double() * factors * factors[:, None]
        return (factors * impartial(scaled)).to(gramian.dtype)

    def observe(self, gramian: Tensor, weights: Tensor) -> None:
        """See `GramianBalancer.observe`: move the scales."""
        assert self.losses is not None
        slope = self._factors(gramian) * self.losses - 1
        self.scales.step(self.tasks_of(gramian), slope.where(self.losses > 0, 0.0))

    def head_weights(self) -> Tensor:
        """See `GramianBalancer.head_weights`: the factors of the losses."""
        return self.scales.read("value", self.present, self.scales.get_buffer("value").device).double().exp()

    def _factors(self, gramian: Tensor) -> Tensor:
        return self.scales.read("value", self.tasks_of(gramian), gramian.device).double().exp()
