"""Balancers: K task losses into one update, at three levels of information."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.gradients import TaskGradients, task_gradients
from polytask.errors import UserError, listing

Losses = Mapping[str, Tensor] | Sequence[Tensor]
Level = Literal["loss", "gramian", "jacobian"]


@dataclass(frozen=True)
class Step:
    """What a balancer found in one step; detached tensors, so that looking at them is what waits for the device.

    Attributes:
        tasks: The tasks of the step, K of them, in the order of the losses.
        loss_values: `[K]`, their losses.
        weight_values: `[K]`, what their gradients were multiplied by; None where the update is no weighted sum.
        gramian: `[K, K]`, float64 on the CPU; None where it was not computed.
    """

    tasks: tuple[str, ...]
    loss_values: Tensor
    weight_values: Tensor | None = None
    gramian: Tensor | None = None

    @property
    def losses(self) -> dict[str, Tensor]:
        """The losses by task name."""
        return dict(zip(self.tasks, self.loss_values.unbind(), strict=True))

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights by task name; empty where there are none."""
        return {} if self.weight_values is None else dict(zip(self.tasks, self.weight_values.unbind(), strict=True))


class Balancer(nn.Module, ABC):
    """Turns the losses of K tasks into one update.

    Attributes:
        level: What the method needs to know: the losses, the Gramian of the task gradients, or these themselves.
        passes: How many backward passes through the shared parameters a step takes, at most: `1` or `K`.
        paper: Where the method was published.
        year: When.
        last: What the last step found; None before the first.
        present: The tasks of the current step, in the order of the losses.
    """

    level: ClassVar[Level]
    passes: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.last: Step | None = None
        self.present: tuple[str, ...] = ()

    def prepare(self, tasks: Sequence[str]) -> None:
        """Say which tasks there will be, before the first step; more may come later.

        A method that keeps something for each task makes room for it here, else at the task's first step. Calling it
        again changes nothing.

        Args:
            tasks: The tasks' names.

        Raises:
            UserError: The method's parameters do not fit these tasks.
        """

    @abstractmethod
    def backward(
        self, losses: Losses, shared: Iterable[nn.Parameter] | None = None, *, scaler: GradScaler | None = None
    ) -> None:
        """Accumulate the update into `.grad`, as `Tensor.backward` does; use it in place of `sum(losses).backward()`.

        Args:
            losses: The tasks' losses, scalars, by task name or in order (the names are then `"0"`, `"1"`...). A task
                without a loss in this step is left out.
            shared: The parameters that tasks have in common, to which the method applies; None: those that more than
                one loss reaches. All others get the plain gradient of the sum of the losses. Methods of the level
                `loss` do not ask.
            scaler: Scales the losses for training in float16. The gradients come out scaled, for `scaler.step`; what
                the method itself sees is not scaled.

        Raises:
            UserError: There is no loss, one is not a scalar, or none depends on a parameter.
        """

    def _enter(self, losses: Losses) -> list[Tensor]:
        """Check the losses of a step and note its tasks."""
        if isinstance(losses, Mapping):
            names, values = tuple(losses), list(losses.values())
        else:
            names, values = tuple(map(str, range(len(losses)))), list(losses)
        if not values:
            raise UserError("There are no losses to balance: a step without any labelled task has to be left out.")
        requires_grad = False
        for name, loss in zip(names, values, strict=True):
            if not isinstance(loss, Tensor) or loss.ndim:
                found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r}"
                raise UserError(f"The loss of task '{name}' is {found}, but must be a scalar tensor, such as a mean.")
            requires_grad = requires_grad or loss.requires_grad
        if not requires_grad:
            raise UserError(
                f"No loss depends on a parameter that requires a gradient (tasks: {listing(names)}). Were the losses "
                "detached, or computed under torch.no_grad()?"
            )
        self.present = names
        return values


class LossBalancer(Balancer):
    """A method that needs the losses alone: one backward pass through one combined loss."""

    level = "loss"
    passes = "1"

    @abstractmethod
    def combine(self, losses: Tensor) -> Tensor:
        """The combined loss, a scalar, from the losses `[K]` of the tasks `self.present`.

        The weights of the step are its derivatives for the losses, so a method need not report them.
        """

    def tasks_of(self, losses: Tensor) -> tuple[str, ...]:
        """The names that belong to losses `[K]`: those of the step, or `"0"`, `"1"`... where there is none."""
        return self.present if len(self.present) == len(losses) else tuple(map(str, range(len(losses))))

    def observe(self, losses: Tensor) -> None:
        """Take in the detached losses `[K]` after the backward pass, for methods that learn from step to step."""

    def backward(
        self,
        losses: Losses,
        shared: Iterable[nn.Parameter] | None = None,
        *,
        scaler: GradScaler | None = None,
    ) -> None:
        """See `Balancer.backward`."""
        stacked = torch.stack(self._enter(losses))
        stacked.retain_grad()
        total = self.combine(stacked)
        (total if scaler is None else scaler.scale(total)).backward()  # type: ignore[no-untyped-call]
        weights, values = stacked.grad, stacked.detach()
        if weights is not None and scaler is not None:
            weights = weights / _scale(scaler, weights)
        self.last = Step(self.present, values, weights)
        self.observe(values)


class GramianBalancer(Balancer):
    """A method whose update is a weighted sum of the task gradients, with weights from their Gramian alone."""

    level = "gramian"
    passes = "K"

    @abstractmethod
    def weights(self, gramian: Tensor) -> Tensor:
        """The weights `[K]` of the task gradients, given the state.

        Args:
            gramian: `[K, K]`, `G = J Jᵀ`; in `backward` float64 on the CPU, and finite.
        """

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
            weights = self._solved(gramian, skips=scaler is not None and scaler.is_enabled())
            update = gradients.weighted(weights)
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
        return weights


class JacobianBalancer(Balancer):
    """A method that needs the task gradients themselves."""

    level = "jacobian"
    passes = "K"

    @abstractmethod
    def combine(self, jacobian: Tensor) -> Tensor:
        """The update `[P]` for the task gradients `[K, P]`, given the state."""

    def backward(
        self, losses: Losses, shared: Iterable[nn.Parameter] | None = None, *, scaler: GradScaler | None = None
    ) -> None:
        """See `Balancer.backward`."""
        values = self._enter(losses)
        gradients = _measured(values, shared, scaler)
        jacobian = gradients.jacobian
        if not gradients.shared:
            update = jacobian.new_zeros(0)
        elif scaler is None:
            update = self.combine(jacobian)
        else:
            scale = _scale(scaler, jacobian)
            update = self.combine(jacobian / scale) * scale
        gradients.accumulate(update)
        self.last = Step(self.present, torch.stack(values).detach())


def _measured(
    losses: Sequence[Tensor], shared: Iterable[nn.Parameter] | None, scaler: GradScaler | None
) -> TaskGradients:
    scaled = losses if scaler is None else [scaler.scale(loss) for loss in losses]
    return task_gradients(scaled, shared)


def _scale(scaler: GradScaler, like: Tensor) -> Tensor:
    """The factor that `scaler` multiplies with, as a tensor: reading it as a number would wait for the device."""
    return scaler.scale(like.new_ones(()))
