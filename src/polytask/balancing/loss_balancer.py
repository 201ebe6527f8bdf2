"""Methods that need the losses alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.balancer import Balancer, Losses, Step
from polytask.balancing.gradients import clear_about_a_second_pass
from polytask.balancing.precision import without_autocast
from polytask.balancing.weighting import Normalize, Weighting


class LossBalancer(Balancer):
    """A method that needs the losses alone: one backward pass through their weighted sum.

    Args:
        log_losses: See `Balancer`.
        normalize: Scale the weights so that they sum to 1 (`sum_to_one`) or to the number of tasks (`sum_to_k`). Papers
            differ in this, and the same learning rate then means different things.
        smoothing: Average the weights over the steps: this much of the old ones stays at each step.

    Attributes:
        fixed_weights: Whether `combine` is a sum of the losses with weights that depend on nothing.
    """

    level = "loss"
    passes = "1"
    fixed_weights: ClassVar[bool] = False

    def __init__(self, *, log_losses: bool = False, normalize: Normalize = "none", smoothing: float = 0.0) -> None:
        super().__init__(log_losses=log_losses)
        self._weighting = Weighting(normalize, smoothing)

    @property
    def additive(self) -> bool:
        """See `Balancer.additive`."""
        return self.fixed_weights and not (self.log_losses or self._weighting.changes)

    @abstractmethod
    def combine(self, losses: Tensor) -> Tensor:
        """The combined loss, a scalar, from the losses `[K]` of the tasks `self.present`.

        The weights of the step are its derivatives for the losses, so a method need not report them. What should count
        as a constant has to be detached.
        """

    def begin(self, losses: Tensor) -> None:
        """Take in the detached losses `[K]` before they are combined, for methods that learn from them first."""

    def observe(self, losses: Tensor) -> None:
        """Take in the detached losses `[K]` after the backward pass, for methods that learn from step to step."""

    @torch.enable_grad()
    def backward(
        self,
        losses: Losses,
        shared: Iterable[nn.Parameter] | None = None,
        *,
        scaler: GradScaler | None = None,
        samples: Mapping[str, Tensor] | None = None,
        probe: Losses | None = None,
    ) -> None:
        """See `Balancer.backward`."""
        stacked = torch.stack(self._enter(losses))
        values = stacked.detach()
        with without_autocast(), _unspoilt(self, values, scaler):
            self.begin(values)
            # Where the weights stay as they are, one pass gives them and the gradients; else the losses are cut off.
            leaf = values.clone().requires_grad_() if self._weighting.changes else stacked
            leaf.retain_grad()
            # Here the method's own parameters get their gradients; the scaler divides them again with all others.
            total = self.combine(leaf)
            with clear_about_a_second_pass():
                (total if scaler is None else scaler.scale(total)).backward()  # type: ignore[no-untyped-call]
            assert leaf.grad is not None
            weights = leaf.grad
            if scaler is not None:
                weights = weights / scaler.scale(weights.new_ones(()))
            if self._weighting.changes:
                weights = self._weighting.apply(weights, self.present)
                seeds = weights if scaler is None else scaler.scale(weights)
                with clear_about_a_second_pass():
                    stacked.backward(seeds)  # type: ignore[no-untyped-call]
            self.last = Step(self.present, values, weights)
            self.observe(values)


@contextmanager
def _unspoilt(balancer: LossBalancer, losses: Tensor, scaler: GradScaler | None) -> Iterator[None]:
    """Undo what a step with a loss that is not finite does to what the method keeps for the tasks.

    With a scaler such steps are part of training in float16: it leaves them out. Without waiting for the device.
    """
    if scaler is None or not scaler.is_enabled():
        yield
        return
    before = {name: value for name, value in balancer.named_buffers() if value.is_floating_point()}
    yield
    finite = losses.isfinite().all()
    for name, new in list(balancer.named_buffers()):
        old = before.get(name)
        if old is not None and old.shape == new.shape:
            module, _, field = name.rpartition(".")
            kept = torch.where(finite.to(new.device), new, old.to(new.device))
            setattr(balancer.get_submodule(module), field, kept)
