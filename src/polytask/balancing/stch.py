"""A smooth maximum of the losses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.balancer import Score
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import PerTask
from polytask.balancing.scale_invariant import log_sum
from polytask.balancing.task_values import TaskValues
from polytask.errors import UserError

logger = logging.getLogger("polytask")

_PATIENCE = 10_000
"""After so many steps without an epoch's end, say so."""


class SmoothTchebycheff(LossBalancer):
    """Smooth Tchebycheff scalarisation (STCH): `L = K mu log sum_k exp(w_k y_k / mu)`, with `y_k = log(L_k / n_k)`.

    From Lin, Zhang, Yang, Liu, Wang and Zhang, "Smooth Tchebycheff Scalarization for Multi-Objective Optimization",
    ICML 2024. A smooth form of `K max_k w_k y_k`, to which it tends as `mu` falls to 0. The nadir values `n_k` make the
    tasks comparable: `y_k` is how far, in orders of magnitude, task k has come from where it was early in the training,
    and the tasks that have come less far get the greater weights. With all `w_k = 1` the update is that of `sum_k v_k
    log L_k`, where the `v_k` sum to K; the weights of the losses themselves, `v_k / L_k`, have no fixed sum. With `mu =
    1` it is that of `K log sum_k (L_k / n_k)`.

    As in the official code, `warmup_epochs` epochs run on the sum of the logarithms (`scale_invariant`), then one more,
    whose mean losses are the nadir values; so with 4 it is the sixth epoch that first uses the formula. Without
    `epoch_end()` the warm-up never ends. A task that first comes after that has its first loss as its nadir value.

    The paper's general definition is on `y_k = L_k - z_k`, without the factor K: `warmup_epochs=None` gives it, times
    K, on which the learning rate depends. Then the scales of the losses matter, and `log_losses` may be of use.

    Losses have to be positive where the logarithm is taken; a task whose loss is negative gets the weight 0.

    Args:
        mu: How smooth, above 0; the smaller, the more the worst task counts alone.
        warmup_epochs: Epochs before the one that gives the nadir values. None: see above.
        weights: `w_k` of each task, at least 0, by task name or in the order of the tasks. None: 1 for each.
        ideal: `z_k` of each task: a loss that it cannot fall below; only without a warm-up. None: 0.

    Raises:
        UserError: A value is out of range, or a parameter is set that has no meaning beside the others.
    """

    paper = "Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024"
    year = 2024

    def __init__(
        self,
        mu: float = 1.0,
        warmup_epochs: int | None = 4,
        weights: Mapping[str, float] | Sequence[float] | None = None,
        ideal: Mapping[str, float] | Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not mu > 0:
            raise UserError(f"stch: mu is {mu}, but must be above 0.")
        if warmup_epochs is not None:
            if warmup_epochs < 0:
                raise UserError(f"stch: warmup_epochs is {warmup_epochs}, but must be at least 0, or None.")
            if self.log_losses:
                raise UserError(
                    "stch: log_losses cannot be set: the method takes the logarithms itself. Only without a warm-up "
                    "(warmup_epochs: None) it does not."
                )
            if ideal is not None:
                raise UserError("stch: ideal values have no meaning with a warm-up: set warmup_epochs to None.")
        self.mu = mu
        self.warmup_epochs = warmup_epochs
        self.epoch = 0
        self.nadir = PerTask({"mean": 0.0, "steps": 0.0})
        self._weights = None if weights is None else TaskValues("stch", "weight", weights, minimum=0.0)
        self._ideal = None if ideal is None else TaskValues("stch", "ideal value", ideal)
        self._steps = 0

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A task has no weight or ideal value, or one of these no task.
        """
        self.nadir.add(tasks)
        for values in (self._weights, self._ideal):
            if values is not None:
                values.prepare(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        tasks = self.tasks_of(losses)
        if self.warmup_epochs is None:
            heights = losses if self._ideal is None else losses - self._ideal.read(tasks, losses)
        elif self.epoch <= self.warmup_epochs:
            return log_sum(losses)
        else:
            mean, steps = (self.nadir.read(field, tasks, losses.device) for field in ("mean", "steps"))
            nadir = torch.where(steps > 0, mean, losses.detach())
            heights = ((losses / nadir.where(nadir > 0, 1.0)).clamp(min=0) + 1e-20).log()
        if self._weights is not None:
            heights = self._weights.read(tasks, losses) * heights
        return len(losses) * self.mu * (heights / self.mu).logsumexp(0)

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: measure the nadir values."""
        if self.warmup_epochs is None:
            return
        self._steps += 1
        if self._steps == _PATIENCE and not self.epoch:
            logger.warning(
                "stch: %d steps without epoch_end(): the warm-up has not ended yet. In a loop of your own, call "
                "balancer.epoch_end() after each epoch, or set warmup_epochs to None.",
                _PATIENCE,
            )
        if self.epoch < self.warmup_epochs:
            return
        mean, steps = (self.nadir.read(field, self.present, losses.device) for field in ("mean", "steps"))
        losses = losses.to(mean.dtype)
        new = losses.isfinite()
        if self.epoch > self.warmup_epochs:
            new = new & (steps == 0)
        self.nadir.write("mean", self.present, torch.where(new, mean + (losses - mean) / (steps + 1), mean))
        self.nadir.write("steps", self.present, steps + new)

    def epoch_end(self, scores: Mapping[str, Score] | None = None) -> None:
        """See `Balancer.epoch_end`."""
        self.epoch += 1

    def get_extra_state(self) -> dict[str, int]:
        """How many epochs are over."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        """Go on from there."""
        self.epoch = state["epoch"]
