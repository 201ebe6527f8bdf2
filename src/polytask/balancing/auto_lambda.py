"""Weights learned from how far each task's gradient leads the main tasks' validation loss down."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.adam import TaskAdam
from polytask.balancing.balancer import Losses
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.main_tasks import MainTasks
from polytask.balancing.processes import several_processes
from polytask.balancing.random_numbers import RandomNumbers
from polytask.errors import UserError

logger = logging.getLogger("polytask")


class AutoLambda(LossBalancer):
    """Auto-λ: weights that follow the gradient of the main tasks' validation loss after a step with these weights.

    From Liu, James, Davison and Johns, "Auto-Lambda: Disentangling Dynamic Task Relationships", TMLR 2022. Before each
    step, with the parameters θ, the training losses L_k and the learning rate α: the look-ahead `θ' = θ - α Σ_k λ_k
    ∇L_k(θ)` is one step of gradient descent; with d the gradient of the main tasks' validation loss there, `d = ∇L_val
    (θ')`, the derivative of `L_val(θ')` for λ_k is `-α ∇L_k(θ) · d`, and this product is taken by a finite difference,
    `-α (L_k(θ + ε d) - L_k(θ - ε d)) / (2 ε)` with `ε = epsilon / |d|`. Adam moves λ against it. Every task's λ is
    learned, the main tasks' too, so that their sum is free: at the start the update is `initial` times the sum.

    As the paper has it, the look-ahead is a step of plain gradient descent, whatever the optimiser is; the official
    code adds the momentum and the weight decay of SGD. Two things are our own. λ stays at 0 or above, as a loss with a
    negative weight has no lower bound; the official code does not bound it. And all passes over a step's batch draw the
    same random numbers, those of the step itself, so that the difference is none between dropout masks.

    In a loop of your own, call `before_step` before each step; without it the weights stay as they are. The validation
    losses can come from validation data, or, as in the official code, from training data drawn independently. It costs
    two backward passes and two forward passes more, about four times a plain step, whatever the number of tasks, and
    the memory of a copy of the parameters and of two gradients. Batch normalisation in training moves its running
    statistics in these passes too. A step without a validation loss of a main task leaves the weights as they are, as
    does one whose numbers are not finite. One process only.

    Args:
        main: The name of the main task, or the names of several: their validation losses are added up. None: in a
            configuration, the tasks that are not auxiliary.
        initial: The weight that each task starts with.
        lr: Learning rate of the weights.
        epsilon: How long the step of the finite difference is.

    Raises:
        UserError: A parameter is out of range; `main` is empty or, where the tasks are known, none of them.
    """

    paper = "Liu, James, Davison and Johns, Auto-Lambda: Disentangling Dynamic Task Relationships, TMLR 2022"
    year = 2022

    def __init__(
        self,
        main: str | Sequence[str] | None = None,
        initial: float = 0.1,
        lr: float = 0.0001,
        epsilon: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for name, value in (("initial", initial), ("lr", lr), ("epsilon", epsilon)):
            if not 0 < value < math.inf:
                raise UserError(f"auto_lambda: {name} is {value}, but must be above 0.")
        self.main = MainTasks("auto_lambda", main)
        self.learned = TaskAdam(initial, lr)
        self.epsilon = epsilon
        self._looked_ahead = False
        self._warned = False

    @property
    def wants_validation(self) -> bool:
        """See `Balancer.wants_validation`."""
        return True

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A main task is no task.
        """
        self.main.prepare(tasks)
        self.learned.add(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        weights = self.learned.read("value", self.tasks_of(losses), losses.device)
        return (weights.to(losses.dtype) * losses).sum()

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`."""
        if not (self._looked_ahead or self._warned):
            self._warned = True
            logger.warning(
                "auto_lambda: before_step(training, validation, parameters, lr) was not called, so that the weights "
                "are not learned. Call it before each step."
            )

    @torch.enable_grad()
    def before_step(
        self,
        training: Callable[[], Losses],
        validation: Callable[[], Losses],
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        scaler: GradScaler | None = None,
    ) -> None:
        """See `Balancer.before_step`: move the weights.

        Raises:
            UserError: There are several processes; a main task is in no step.
        """
        if several_processes():
            raise UserError("auto_lambda looks ahead in one process only, but there are several.")
        self._looked_ahead = True
        chosen = [parameter for parameter in dict.fromkeys(parameters) if parameter.requires_grad]
        before = [parameter.detach().clone() for parameter in chosen]
        random = RandomNumbers({parameter.device for parameter in chosen})
        try:
            self._learn(training, validation, chosen, before, lr, scaler=scaler, random=random)
        finally:
            _set(chosen, before)
            random.restore()

    def _learn(
        self,
        training: Callable[[], Losses],
        validation: Callable[[], Losses],
        parameters: Sequence[nn.Parameter],
        before: Sequence[Tensor],
        lr: float,
        *,
        scaler: GradScaler | None,
        random: RandomNumbers,
    ) -> None:
        losses = _named(training())
        tasks = tuple(losses)
        if not tasks:
            return
        stacked = torch.stack([self._seen(loss) for loss in losses.values()])
        weights = self.learned.read("value", tasks, stacked.device).to(stacked.dtype)
        step = _gradients((weights * stacked).sum(), parameters, scaler)
        _set(parameters, [p if g is None else p - lr * g for p, g in zip(before, step, strict=True)])
        checked = _named(validation())
        self.main.among(tuple(checked))
        goals = [self._seen(loss) for task, loss in checked.items() if task in self.main.names and loss.requires_grad]
        if not goals:
            return
        direction = _gradients(torch.stack(goals).sum(), parameters, scaler)
        norms = [torch.linalg.vector_norm(g).to(stacked.device) for g in direction if g is not None]
        length = float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
        if not 0 < length < math.inf:
            return
        epsilon = self.epsilon / length
        ends = []
        for sign in (1, -1):
            moved = [p if d is None else p + sign * epsilon * d for p, d in zip(before, direction, strict=True)]
            _set(parameters, moved)
            random.restore()
            with torch.no_grad():
                found = _named(training())
            ends.append(torch.stack([self._seen(found[task]) for task in tasks]))
        slopes = -lr * (ends[0] - ends[1]) / (2 * epsilon)
        self.learned.step(tasks, slopes)
        self.learned.write("value", tasks, self.learned.read("value", tasks, slopes.device).clamp(min=0))


def _named(losses: Losses) -> dict[str, Tensor]:
    return dict(losses) if isinstance(losses, Mapping) else {str(index): loss for index, loss in enumerate(losses)}


def _gradients(total: Tensor, parameters: Sequence[Tensor], scaler: GradScaler | None) -> list[Tensor | None]:
    """A scalar's gradients, without the scale that they were made with."""
    if not total.requires_grad:
        return [None] * len(parameters)
    scaled = total if scaler is None else scaler.scale(total)
    found = torch.autograd.grad(scaled, parameters, allow_unused=True)
    dense: list[Tensor | None] = [g.to_dense() if g is not None and g.is_sparse else g for g in found]
    if scaler is None:
        return dense
    factor = 1 / scaler.scale(torch.ones_like(total.detach()))
    return [None if g is None else g * factor.to(g) for g in dense]


def _set(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        # Through `data`: autograd would take a graph made before for spoilt, though the numbers come back.
        parameter.data.copy_(value)
