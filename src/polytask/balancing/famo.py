"""Weights under which all losses fall at the same rate."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.adam import TaskAdam
from polytask.balancing.balancer import Losses
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import PerTask
from polytask.balancing.task_values import TaskValues
from polytask.errors import UserError

logger = logging.getLogger("polytask")


class FAMO(LossBalancer):
    """Fast adaptive multitask optimisation (FAMO): `w_k = (z_k / D_k) / sum_j (z_j / D_j)`, `z = softmax(xi)`.

    From Liu, Feng, Stone and Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023. `D_k = L_k - b_k` is the
    distance of a loss from the least it can be. The logits `xi`, 0 at the start, are moved by Adam against
    `(dz/dxi)ᵀ delta` with `delta_k = log D_k - log D_k'`, where `D'` is after the optimiser's step: tasks that fell
    more than others lose weight, so that all logarithms fall at the same rate. The weights sum to 1. At the start they
    are those of `scale_invariant`, normalised.

    In the paper's algorithm and experiments `D'` is of the same batch: `same_batch=True`, which costs one more forward
    pass a step (in training mode it also moves the running statistics of batch normalisation) and, in a loop of your
    own, a call of `after_step(losses)` after each `optimizer.step()`. The default takes the losses of the next step,
    which costs nothing; where every step sees all data it is the same. Else `delta` also holds the difference between
    the batches, which averages out, but moves the logits at random.

    Tasks that are absent do not count in `z`, and their logits stay. Where a task was absent between two steps, its
    `delta` is divided by the number of steps. A task at or below its `b_k` has nothing to gain: it gets the weight 0
    and no `delta` (the official code adds 1e-8 to every distance, as is done here, and so gives it almost all weight).

    Args:
        lr: Learning rate of the logits.
        weight_decay: Their weight decay, `gamma` in the paper, which draws the weights back to those of the start. It
            has to be small beside `delta`: where the losses change by less than a thousandth in a step, 1e-3 lets the
            method do nothing. The paper tunes it, and sets it to 0 in its toy problem.
        min_losses: `b_k` of each task, by task name or in the order of the tasks: a loss that it cannot fall below.
            None: 0.
        same_batch: Whether `delta` is from the same batch, by `after_step`, or from the next.

    Raises:
        UserError: A value is out of range, or `log_losses` is set, which would take the logarithm twice.
    """

    paper = "Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023"
    year = 2023

    def __init__(
        self,
        lr: float = 0.025,
        weight_decay: float = 0.001,
        min_losses: Mapping[str, float] | Sequence[float] | None = None,
        same_batch: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if self.log_losses:
            raise UserError("famo: log_losses cannot be set: the method takes the logarithms itself.")
        if not lr > 0:
            raise UserError(f"famo: lr is {lr}, but must be above 0.")
        if not weight_decay >= 0:
            raise UserError(f"famo: weight_decay is {weight_decay}, but must be at least 0.")
        self.same_batch = same_batch
        self.logits = TaskAdam(0.0, lr, weight_decay)
        # Holds only tasks that had a step.
        self.before = PerTask({"loss": 0.0, "age": 1.0})
        self._min_losses = None if min_losses is None else TaskValues("famo", "minimum", min_losses)
        self._waits = False
        self._warned = False

    @property
    def looks_back(self) -> bool:
        """See `Balancer.looks_back`."""
        return self.same_batch

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A task has no minimum, or a minimum no task.
        """
        self.logits.add(tasks)
        if self._min_losses is not None:
            self._min_losses.prepare(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        tasks = self.tasks_of(losses)
        shares = self.logits.read("value", tasks, losses.device).softmax(0)
        distances = self._distances(tasks, losses.detach())
        weights = (shares / (distances + 1e-8)).where(distances > 0, 0.0)
        size = weights.sum()
        return (weights / size.where(size > 0, 1.0) * losses).sum()

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: keep the losses for the comparison."""
        if self._waits and not self._warned:
            self._warned = True
            logger.warning(
                "famo: after_step(losses) was not called after the last step, so the weights were not learned. Call it "
                "after each optimizer.step() with the losses of the same batch, or set same_batch to False."
            )
        self._waits = self.same_batch
        self.before.add(self.present)
        tasks = self.before.tasks
        age = self.before.read("age", tasks, losses.device)
        if tasks != self.present:
            self.before.write("age", tasks, age + 1)
        self.before.write("age", self.present, torch.ones_like(losses, dtype=age.dtype))
        self.before.write("loss", self.present, losses.to(age.dtype))

    def after_step(self, losses: Losses) -> None:
        """See `Balancer.after_step`."""
        named = losses if isinstance(losses, Mapping) else {str(i): loss for i, loss in enumerate(losses)}
        if self.same_batch:
            self._learn({task: loss for task, loss in named.items() if task in self.present})
            self._waits = False

    def begin(self, losses: Tensor) -> None:
        """See `LossBalancer.begin`: this step's weights are to follow from its losses, as with the same batch."""
        if not self.same_batch:
            self._learn(dict(zip(self.present, losses.unbind(), strict=True)))

    @torch.no_grad()
    def _learn(self, losses: Mapping[str, Tensor]) -> None:
        """Move the logits of those of the tasks that had a step before, given their losses after it."""
        seen = set(self.before.tasks)
        tasks = [task for task in losses if task in seen]
        if not tasks:
            return
        after = torch.stack([losses[task] for task in tasks])
        before, age = (self.before.read(field, tasks, after.device) for field in ("loss", "age"))
        first, second = self._distances(tasks, before), self._distances(tasks, after)
        # The difference of the logarithms, without their rounding errors, which would be much of a small step's.
        fall = ((first - second) / (second + 1e-8)).log1p() / age
        known = (first > 0) & (second > 0) & fall.isfinite()
        fall = fall.where(known, 0.0)
        shares = self.logits.read("value", tasks, after.device).where(known, -math.inf).softmax(0)
        self.logits.step(tasks, shares * (fall - (shares * fall).sum()))

    def _distances(self, tasks: Sequence[str], losses: Tensor) -> Tensor:
        """How far losses `[K]` are from their minimums, at least in single precision: half has no 1e-8."""
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
        return losses if self._min_losses is None else losses - self._min_losses.read(tasks, losses)
