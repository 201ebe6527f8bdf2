"""Methods that need the task gradients themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.balancer import Balancer, Losses, Step
from polytask.balancing.disjoint import Samples
from polytask.balancing.gradients import accumulate_others, plan, refuse_hooks_after_accumulation, whole_gradients
from polytask.balancing.precision import without_autocast
from polytask.errors import UserError


class JacobianBalancer(Balancer):
    """A method that needs the task gradients themselves.

    Args:
        log_losses: See `Balancer`.

    Attributes:
        weight_values: `[K]`, what `combine` multiplied the gradients by, for methods that do; None for others.
        sizes: The numbers of elements of the shared parameters, in the order of the columns; () outside of a step.
    """

    level = "jacobian"
    passes = "K"

    def __init__(self, *, log_losses: bool = False) -> None:
        super().__init__(log_losses=log_losses)
        self.sizes: tuple[int, ...] = ()
        self.weight_values: Tensor | None = None

    @abstractmethod
    def combine(self, jacobian: Tensor) -> Tensor:
        """The update `[P]` for the task gradients `[K, P]` of the tasks `self.present`; may learn from them."""

    @torch.enable_grad()
    def backward(
        self,
        losses: Losses,
        shared: Iterable[nn.Parameter] | None = None,
        *,
        scaler: GradScaler | None = None,
        samples: Samples | None = None,
        probe: Losses | None = None,
    ) -> None:
        """See `Balancer.backward`."""
        values = self._enter(losses)
        self._refuse_processes(values)
        scaled = values if scaler is None else [scaler.scale(loss) for loss in values]
        planned = plan(scaled, shared, ghosts=False, unreached=shared is not None)
        refuse_hooks_after_accumulation(planned)
        with without_autocast():
            found = whole_gradients(planned, scaled)
        if found.blocks:
            (block,) = found.blocks
            jacobian = block.rows
            self.sizes = tuple(parameter.numel() for parameter in block.parameters)
            factor = None if scaler is None else scaler.scale(jacobian.new_ones(()))
            try:
                with without_autocast():
                    update = self.combine(jacobian if factor is None else jacobian / factor)
            finally:
                self.sizes = ()
            if update.shape != jacobian.shape[1:]:
                raise UserError(
                    f"{type(self).__name__}.combine gave a tensor of shape {tuple(update.shape)}, but must give one of "
                    f"shape {tuple(jacobian.shape[1:])}."
                )
            found.accumulate_update(update if factor is None else update * factor)
        else:
            accumulate_others(found.others, None)
        self.last = Step(self.present, torch.stack(values).detach(), self.weight_values)
