"""Weights from how fast the losses fall."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.balancer import Score
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import PerTask
from polytask.errors import UserError

logger = logging.getLogger("polytask")

_PATIENCE = 10_000
"""After so many steps without an epoch's end, say so."""


class DWA(LossBalancer):
    """Dynamic weight average (DWA): `w = K softmax(r / T)`, where `r_k` is the rate at which the loss of task k falls.

    From Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019. `r_k` is the mean loss in
    the last epoch over that in the one before; the slower a loss falls, the greater the task's weight. The weights sum
    to K. With `T = 2` they stay close to 1: a loss that halved beside one that stood still gives 0.88 and 1.12.

    A rate that is not known counts as 1, that of a loss that stands still: in the first two epochs, so that all weights
    are 1 there, for a task without two epochs behind it, and where the earlier mean is 0. An epoch in which a task was
    absent does not count for it. Losses that are not finite are left out of the means. Losses have to be of one sign.

    Args:
        temperature: `T`, above 0; the greater, the more equal the weights.
        window: Means over so many steps of the task take the place of those over epochs. None: epochs, by
            `epoch_end()`; without it the weights stay 1.

    Raises:
        UserError: A value is out of range.
    """

    paper = "Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019"
    year = 2019

    def __init__(self, temperature: float = 2.0, window: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if not temperature > 0:
            raise UserError(f"dwa: temperature is {temperature}, but must be above 0.")
        if window is not None and window < 1:
            raise UserError(f"dwa: window is {window}, but must be at least 1 step, or None for epochs.")
        self.temperature = temperature
        self.window = window
        self.means = PerTask({"current": 0.0, "steps": 0.0, "last": math.nan, "earlier": math.nan})
        self._steps = 0

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.means.add(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        tasks = self.tasks_of(losses)
        rates = self.means.read("last", tasks, losses.device) / self.means.read("earlier", tasks, losses.device)
        rates = rates.where(rates.isfinite(), 1.0)
        weights = len(losses) * (rates / self.temperature).softmax(0)
        return (weights * losses).sum()

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: take the losses into the means."""
        current, steps = (self.means.read(field, self.present, losses.device) for field in ("current", "steps"))
        losses = losses.to(current.dtype)
        finite = losses.isfinite()
        self.means.write(
            "current", self.present, torch.where(finite, current + (losses - current) / (steps + 1), current)
        )
        self.means.write("steps", self.present, steps + finite)
        if self.window is not None:
            self._turn(self.present, self.window)
            return
        self._steps += 1
        if self._steps == _PATIENCE:
            logger.warning(
                "dwa: %d steps without epoch_end(): the weights stay 1 until two epochs are over. In a loop of your "
                "own, call balancer.epoch_end() after each epoch, or set window.",
                _PATIENCE,
            )

    def epoch_end(self, scores: Mapping[str, Score] | None = None) -> None:
        """See `Balancer.epoch_end`."""
        if self.window is None:
            # That it is called is known now.
            self._steps = _PATIENCE
            self._turn(self.means.tasks, 1)

    def _turn(self, tasks: Sequence[str], least: int) -> None:
        """End the current means of those of the tasks that have at least so many steps in them."""
        device = self.means.get_buffer("steps").device
        current, steps, last, earlier = (
            self.means.read(field, tasks, device) for field in ("current", "steps", "last", "earlier")
        )
        over = steps >= least
        self.means.write("earlier", tasks, torch.where(over, last, earlier))
        self.means.write("last", tasks, torch.where(over, current, last))
        self.means.write("current", tasks, current.where(~over, 0.0))
        self.means.write("steps", tasks, steps.where(~over, 0.0))
