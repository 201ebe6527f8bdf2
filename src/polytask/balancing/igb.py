"""Weights from how far the losses still are from where they are to go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from polytask.balancing.balancer import Score
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import PerTask
from polytask.errors import UserError


class IGB(LossBalancer):
    """Improvable gap balancing, its first version: `sum_k w_k log L_k` with `w = K softmax(L / L_base)`.

    From Dai, Fei and Lu, "Improvable Gap Balancing for Multi-Task Learning", UAI 2023. The gap between a task's loss
    now and a loss of 0 is taken relative to `L_base`, its average over the second epoch: the more of it is left, the
    more weight the task gets. Until that epoch is over the weights are 1. The second version (IGBv2), which learns the
    weights by reinforcement learning (soft actor-critic), is not there.

    The weights of the log losses sum to K; the gradient of `L_k` is multiplied with `w_k / L_k`. They differ by little:
    a task that has not moved since the base gets 2.7 times the weight of one whose loss is 0. A loss that comes to be a
    few times its base takes nearly all the weight. Losses have to be positive. Epochs are counted by `epoch_end`:
    without it, the weights stay 1.

    Args:
        base_epoch: The epoch, counted from 1, whose average losses are the base. A task without a loss in it counts as
            being at its base.
        log_losses: See `Balancer`; True in the paper.

    Raises:
        UserError: The epoch is below 1.
    """

    paper = "Dai, Fei and Lu, Improvable Gap Balancing for Multi-Task Learning, UAI 2023"
    year = 2023

    def __init__(self, base_epoch: int = 2, log_losses: bool = True, **options: Any) -> None:
        super().__init__(log_losses=log_losses, **options)
        if base_epoch < 1:
            raise UserError(f"igb: base_epoch is {base_epoch}, but must be at least 1.")
        self.base_epoch = base_epoch
        self.epochs = 0
        self.base = PerTask({"sum": 0.0, "count": 0.0})

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.base.add(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        if self.epochs < self.base_epoch:
            return losses.sum()
        total, count = (
            self.base.read(field, self.tasks_of(losses), losses.device).to(losses.dtype) for field in ("sum", "count")
        )
        base = (total / count.clamp(min=1)).clamp(min=1e-8)
        gaps = (self._plain(losses.detach()) / base).where(count > 0, 1.0)
        return (len(losses) * gaps.softmax(0) * losses).sum()

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: in the base epoch, average the losses."""
        if self.epochs + 1 != self.base_epoch:
            return
        losses = self._plain(losses)
        for field, more in (("sum", losses.where(losses.isfinite(), 0.0)), ("count", losses.isfinite())):
            before = self.base.read(field, self.present, losses.device)
            self.base.write(field, self.present, before + more.to(before.dtype))

    def epoch_end(self, scores: Mapping[str, Score] | None = None) -> None:
        """See `Balancer.epoch_end`."""
        self.epochs += 1

    def get_extra_state(self) -> dict[str, int]:
        """The count of epochs."""
        return {"epochs": self.epochs}

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        """Take the count back."""
        self.epochs = state["epochs"]

    def _plain(self, losses: Tensor) -> Tensor:
        """The losses themselves, where the method is given their logarithms."""
        return losses.exp() if self.log_losses else losses
