"""Methods that need the task gradients themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.balancer import Balancer, Losses, Step
from polytask.balancing.gradients import task_gradients


class JacobianBalancer(Balancer):
    """A method that needs the task gradients themselves.

    Args:
        log_losses: See `Balancer`.
    """

    level = "jacobian"
    passes = "K"

    def __init__(self, *, log_losses: bool = False) -> None:
        super().__init__(log_losses=log_losses)

    @abstractmethod
    def combine(self, jacobian: Tensor) -> Tensor:
        """The update `[P]` for the task gradients `[K, P]` of the tasks `self.present`; may learn from them."""

    def backward(
        self, losses: Losses, shared: Iterable[nn.Parameter] | None = None, *, scaler: GradScaler | None = None
    ) -> None:
        """See `Balancer.backward`."""
        values = self._enter(losses)
        scaled = values if scaler is None else [scaler.scale(loss) for loss in values]
        gradients = task_gradients(scaled, shared)
        jacobian = gradients.jacobian
        if not gradients.shared:
            update = jacobian.new_zeros(0)
        elif scaler is None:
            update = self.combine(jacobian)
        else:
            scale = scaler.scale(jacobian.new_ones(()))
            update = self.combine(jacobian / scale) * scale
        gradients.accumulate(update)
        self.last = Step(self.present, torch.stack(values).detach())
