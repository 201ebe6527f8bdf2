"""Methods that need the Gramian of the task gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.balancer import Balancer, Losses, Step
from polytask.balancing.gradients import TaskGradients, task_gradients
from polytask.balancing.weighting import Normalize, Weighting
from polytask.errors import UserError, listing


class GramianBalancer(Balancer):
    """A method whose update is a weighted sum of the task gradients, with weights from their Gramian alone.

    Args:
        log_losses: See `Balancer`.
        normalize: Scale the weights so that they sum to 1 (`sum_to_one`) or to the number of tasks (`sum_to_k`). Papers
            differ in this, and the same learning rate then means different things.
        smoothing: Average the weights over the steps: this much of the old ones stays at each step.

    Attributes:
        losses: `[K]`, float64 on the CPU: the losses of the current step, as `weights` and `observe` may need them.
            None outside of a step.
    """

    level = "gramian"
    passes = "K"

    def __init__(self, *, log_losses: bool = False, normalize: Normalize = "none", smoothing: float = 0.0) -> None:
        super().__init__(log_losses=log_losses)
        self._weighting = Weighting(normalize, smoothing)
        self.losses: Tensor | None = None

    @abstractmethod
    def weights(self, gramian: Tensor) -> Tensor:
        """The weights `[K]` of the task gradients, given the state, which stays as it is.

        Args:
            gramian: `[K, K]`, `G = J Jᵀ`; in `backward` float64 on the CPU, and finite.
        """

    def observe(self, gramian: Tensor, weights: Tensor) -> None:
        """Learn from a step, for methods that do: its Gramian, and the weights that `weights` gave for it."""

    def head_weights(self) -> Tensor | None:
        """`[K]`, what multiplies the gradients of the tasks' own parameters; None: nothing does."""
        return None

    def combine(self, jacobian: Tensor) -> Tensor:
        """The update `[P]` for the task gradients `[K, P]`."""
        return self.weights(jacobian @ jacobian.T) @ jacobian

    def backward(
        self, losses: Losses, shared: Iterable[nn.Parameter] | None = None, *, scaler: GradScaler | None = None
    ) -> None:
        """See `Balancer.backward`.

        Raises:
            UserError: A loss or a gradient is not finite, or the method gave a weight that is not (both are known on
                the CPU anyway).
        """
        values = self._enter(losses)
        gradients = _measured(values, shared, scaler)
        weights, gramian = None, None
        update = gradients.jacobian.new_zeros(0)
        if gradients.shared:
            scale = 1.0 if scaler is None else _scale(scaler, gradients.jacobian)
            gramian = (gradients.gramian() / scale**2).cpu().double()
            self.losses = torch.stack(values).detach().cpu().double()
            weights = self._solved(gramian, skips=scaler is not None and scaler.is_enabled())
            update = gradients.weighted(weights)
            self.losses = None
        gradients.accumulate(update)
        self.last = Step(self.present, torch.stack(values).detach(), weights, gramian)

    def _solved(self, gramian: Tensor, skips: bool) -> Tensor:
        lengths = gramian.diagonal()
        if not lengths.isfinite().all():
            if skips:
                # The scale was too great: the update will not be finite either, and the scaler leaves this step out.
                return torch.ones_like(lengths)
            bad = [task for task, length in zip(self.present, lengths.isfinite().tolist(), strict=True) if not length]
            raise UserError(
                f"The loss or the gradient of task {listing(bad)} is not finite. Look for extreme values in its target "
                "and inputs, or try a lower learning rate."
            )
        weights = self.weights(gramian)
        if not weights.isfinite().all():
            bad = [task for task, fine in zip(self.present, weights.isfinite().tolist(), strict=True) if not fine]
            raise UserError(f"{type(self).__name__} gave task {listing(bad)} a weight that is not finite.")
        self.observe(gramian, weights)
        return self._weighting.apply(weights, self.present)


def _measured(losses: list[Tensor], shared: Iterable[nn.Parameter] | None, scaler: GradScaler | None) -> TaskGradients:
    scaled = losses if scaler is None else [scaler.scale(loss) for loss in losses]
    return task_gradients(scaled, shared)


def _scale(scaler: GradScaler, like: Tensor) -> Tensor:
    """The factor that `scaler` multiplies with, as a tensor: reading it as a number would wait for the device."""
    return scaler.scale(like.new_ones(()))
