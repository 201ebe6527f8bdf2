"""Learning-rate schedules at work on an optimiser."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

logger = logging.getLogger("polytask")


class RunningSchedule:
    """Sets the learning rates of an optimiser's groups.

    Args:
        optimizer: The optimiser; its groups may have an `lr_scale`, by which their rates differ.
        factor: For each step, counted from 0, what the rates are multiplied by.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> None:
        self._optimizer = optimizer
        self._scheduler = LambdaLR(optimizer, factor)

    @property
    def lr(self) -> float:
        """The learning rate of the next step, before any group's `lr_scale`."""
        group = self._optimizer.param_groups[0]
        return float(group["lr"]) / float(group.get("lr_scale", 1.0))

    def scale_of(self, task: str) -> float:
        """What the rate of the groups of a task's own parameters is multiplied by; 1 where there are none."""
        own = [float(g.get("own_scale", 1.0)) for g in self._optimizer.param_groups if g.get("task") == task]
        return own[0] if own else 1.0

    def slow_down(self, task: str, factor: float) -> None:
        """Multiply the learning rate of the groups of a task's own parameters, from now on."""
        for index, group in enumerate(self._optimizer.param_groups):
            if group.get("task") == task:
                group["lr"] = float(group["lr"]) * factor
                group["lr_scale"] = float(group.get("lr_scale", 1.0)) * factor
                group["own_scale"] = float(group.get("own_scale", 1.0)) * factor
                self._scheduler.base_lrs[index] *= factor

    def step(self) -> None:
        """Go on by one step of the optimiser; call it after that."""
        if self._scheduler.last_epoch > 0:
            self._scheduler.step()
            return
        with warnings.catch_warnings():
            # In float16 the gradient scaler often skips the first steps of the optimiser, which is no mistake.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self._scheduler.step()

    def epoch_end(self, value: float, higher_is_better: bool) -> None:
        """Take in an epoch's value of what the model is selected by, NaN where there is none."""

    def restart(self) -> None:
        """Forget the values so far: those to come are of other tasks."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here, as plain values."""
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        return {"rates": rates, "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, whether the optimiser's own is loaded before or after."""
        self._scheduler.load_state_dict(dict(state["scheduler"]))
        for group, rate in zip(self._optimizer.param_groups, state["rates"], strict=True):
            group["lr"] = rate


class RunningPlateau(RunningSchedule):
    """Lowers the rates, after the warm-up, when the value has not become better for some epochs.

    Args:
        optimizer: The optimiser.
        factor: For each step of the warm-up, counted from 0, what the rates are multiplied by.
        warmup: Steps of the warm-up.
        patience: Epochs without a better value that are tolerated.
        shrink: What the rates are multiplied by then.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        factor: Callable[[int], float],
        *,
        warmup: int,
        patience: int,
        shrink: float,
    ) -> None:
        super().__init__(optimizer, factor)
        self._warmup = warmup
        # Values are negated where higher is better, so that "min" and an absolute threshold fit all.
        self._plateau = ReduceLROnPlateau(
            optimizer, mode="min", factor=shrink, patience=patience, threshold=0.0, threshold_mode="abs", eps=0.0
        )

    def step(self) -> None:
        """See `RunningSchedule.step`."""
        if self._scheduler.last_epoch < self._warmup:
            super().step()

    def epoch_end(self, value: float, higher_is_better: bool) -> None:
        """See `RunningSchedule.epoch_end`."""
        if math.isnan(value):
            logger.warning("plateau: there is no value to judge this epoch by, so the learning rate stays as it is.")
        elif self._scheduler.last_epoch >= self._warmup:
            self._plateau.step(-value if higher_is_better else value)

    def restart(self) -> None:
        """See `RunningSchedule.restart`."""
        self._plateau.best, self._plateau.num_bad_epochs = math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        """See `RunningSchedule.state_dict`."""
        return {**super().state_dict(), "plateau": self._plateau.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `RunningSchedule.load_state_dict`."""
        super().load_state_dict(state)
        self._plateau.load_state_dict(dict(state["plateau"]))
