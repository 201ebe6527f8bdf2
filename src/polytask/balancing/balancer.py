"""Balancers: K task losses into one update, at three levels of information; here what all have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.processes import several_processes
from polytask.balancing.stand_ins import stand_ins_behind
from polytask.errors import UserError, listing

Losses = Mapping[str, Tensor] | Sequence[Tensor]
Level = Literal["loss", "gramian", "jacobian"]


class Score(NamedTuple):
    """How well a task did on validation data, by its main metric.

    Attributes:
        value: The metric.
        higher_is_better: Its direction.
        gain: The share of the way from the constant baseline (0) to a perfect model (1); negative below the baseline.
    """

    value: float
    higher_is_better: bool
    gain: float


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

    @property
    def norms(self) -> dict[str, Tensor]:
        """The lengths of the gradients by task name; empty where they were not measured."""
        if self.gramian is None:
            return {}
        return dict(zip(self.tasks, self.gramian.diagonal().clamp(min=0).sqrt().unbind(), strict=True))

    @property
    def cosines(self) -> Tensor | None:
        """`[K, K]`, the cosines between the gradients, 0 with a gradient of 0; None where they were not measured."""
        if self.gramian is None:
            return None
        lengths = self.gramian.diagonal().clamp(min=0).sqrt()
        inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
        return (inverse.unsqueeze(1) * self.gramian * inverse).clamp(-1, 1)


class Balancer(nn.Module, ABC):
    """Turns the losses of K tasks into one update.

    Args:
        log_losses: Run the method on the logarithms of the losses, which makes it indifferent to their scales; the
            losses have to be positive.

    Attributes:
        level: What the method needs to know: the losses, the Gramian of the task gradients, or these themselves.
        passes: How many backward passes through the shared parameters a step takes, at most: `1` or `K`.
        paper: Where the method was published.
        year: When.
        batches: How many independent batches a step takes; where there are several, `backward` takes a list of losses.
        batch_fraction: The share of a batch that `backward` is to be given the losses of as `probe`; 1: it is not.
        last: What the last step found; None before the first.
        present: The tasks of the current step, in the order of the losses.
    """

    level: ClassVar[Level]
    passes: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int]
    batches: ClassVar[int] = 1
    batch_fraction: float = 1.0

    def __init__(self, *, log_losses: bool = False) -> None:
        super().__init__()
        self.log_losses = log_losses
        self.last: Step | None = None
        self.present: tuple[str, ...] = ()

    @property
    def looks_back(self) -> bool:
        """Whether `after_step` is to be called after each step of the optimiser."""
        return False

    @property
    def wants_validation(self) -> bool:
        """Whether `before_step` is to be called before each step."""
        return False

    @property
    def additive(self) -> bool:
        """Whether the update is a sum of the losses with weights that no loss or gradient has a part in.

        Then the micro-batches of a step can be given to `backward` one after the other, which adds up their gradients.
        Otherwise it has to see the sums: see `GradientSum`.
        """
        return False

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
        self,
        losses: Losses,
        shared: Iterable[nn.Parameter] | None = None,
        *,
        scaler: GradScaler | None = None,
        samples: Mapping[str, Tensor] | None = None,
        probe: Losses | None = None,
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
            samples: For each task the samples of the batch that its loss depends on, as numbers or as a mask. Where
                they are disjoint, one backward pass measures several tasks, wherever that is exact. (A hook of your own
                on a tensor between layers must not mix samples: it cannot be seen.)
            probe: The losses on a part of the batch, for methods with a `batch_fraction` below 1.

        Raises:
            UserError: There is no loss, one is not a scalar, or none depends on a parameter.
        """

    def before_step(
        self,
        training: Callable[[], Losses],
        validation: Callable[[], Losses],
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        scaler: GradScaler | None = None,
    ) -> None:
        """Look ahead to what the step will do, for methods that ask for it (`wants_validation`).

        Call it before the losses of the step are computed, and `backward` with these as ever.

        Args:
            training: Computes the losses of the step's own batch with the parameters as they are, as often as called.
            validation: Computes the losses of the main tasks on another batch: of validation data, or of training data
                drawn independently. Those of other tasks are not used.
            parameters: All trainable parameters of the model. They are changed meanwhile, and then as before.
            lr: The learning rate of the step.
            scaler: As in `backward`.
        """

    def after_step(self, losses: Losses) -> None:
        """Take in the losses of the same batch after the optimiser's step, for methods that ask for it (`looks_back`).

        Args:
            losses: As in `backward`; they need no graph: compute them under `torch.no_grad()`.
        """

    def epoch_end(self, scores: Mapping[str, Score] | None = None) -> None:
        """Say that an epoch is over, for methods that count epochs or look at scores.

        Args:
            scores: How well the tasks did on validation data; None where that was not measured.
        """

    def _refuse_processes(self, losses: Sequence[Tensor]) -> None:
        # Stand-ins have the same gradients in every process.
        if several_processes() and stand_ins_behind(losses) is None:
            raise UserError(
                f"{type(self).__name__} measures task gradients, which several processes do not exchange by "
                "themselves. Add them up with GradientSum, and give its losses() to backward; or use one process, or a "
                "method of the level 'loss'."
            )

    def tasks_of(self, values: Tensor) -> tuple[str, ...]:
        """The names that belong to `[K, ...]` values: those of the step, or `"0"`, `"1"`... where there is none."""
        return self.present if len(self.present) == len(values) else tuple(map(str, range(len(values))))

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
        devices = {value.device for value in values}
        if len(devices) > 1:
            raise UserError(f"The losses are on several devices: {listing(map(str, devices))}. Move them to one.")
        if not requires_grad:
            raise UserError(
                f"No loss depends on a parameter that requires a gradient (tasks: {listing(names)}). Were the losses "
                "detached, or computed under torch.no_grad()?"
            )
        self.present = names
        return [self._seen(loss) for loss in values]

    def _seen(self, loss: Tensor) -> Tensor:
        """A loss as the method sees it."""
        # The small number keeps the gradient of a loss of 0 finite, as in the official code of DB-MTL.
        return (loss + 1e-8).log() if self.log_losses else loss
