"""Learning-rate schedules as components."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod

import torch

from polytask.components import Family
from polytask.errors import UserError
from polytask.optimization.running import RunningPlateau, RunningSchedule

logger = logging.getLogger("polytask")


class LRSchedule(ABC):
    """A description of how the learning rate goes, which sets it to work on an optimiser.

    Args:
        warmup: The rate rises linearly from 0 over this many steps: below 1 a share of all steps, from 1 on a number.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(self, warmup: float) -> None:
        if not (0 <= warmup < 1 or (warmup >= 1 and float(warmup).is_integer())):
            raise UserError(
                f"The schedule's warmup is {warmup}, but must be a share of all steps, at least 0 and below 1, or a "
                "whole number of steps."
            )
        self.warmup = warmup

    def warmup_steps(self, total_steps: int) -> int:
        """The steps of the warm-up out of all steps."""
        return round(self.warmup * total_steps) if self.warmup < 1 else int(self.warmup)

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """What the learning rate is multiplied by in `step` (counted from 0), warm-up included."""
        warmup = self.warmup_steps(total_steps)
        if step < warmup:
            return (step + 1) / warmup
        return self._after_warmup(step, warmup, total_steps, steps_per_epoch)

    def build(self, optimizer: torch.optim.Optimizer, total_steps: int, steps_per_epoch: int) -> RunningSchedule:
        """The schedule at work.

        Args:
            optimizer: The optimiser, with the full learning rates.
            total_steps: Steps of the optimiser in the whole training.
            steps_per_epoch: Steps of the optimiser in an epoch.
        """
        if self.warmup_steps(total_steps) > total_steps:
            logger.warning(
                "The learning rate's warm-up takes %d steps, but the training only %d: the full rate is never reached.",
                self.warmup_steps(total_steps),
                total_steps,
            )
        return RunningSchedule(optimizer, lambda step: self.factor(step, total_steps, steps_per_epoch))

    @abstractmethod
    def _after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        """`factor` from step `warmup` on."""


class Constant(LRSchedule):
    """The same learning rate throughout.

    Args:
        warmup: The rate rises linearly from 0 over this many steps: below 1 a share of all steps, from 1 on a number.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(self, warmup: float = 0.0) -> None:
        super().__init__(warmup)

    def _after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        return 1.0


class Cosine(LRSchedule):
    """Half a cosine from the full rate down (Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts).

    `final + (1 - final) (1 + cos(pi p)) / 2`, with p from 0 to 1 between the warm-up and the end.

    Args:
        warmup: The rate rises linearly from 0 over this many steps: below 1 a share of all steps, from 1 on a number.
        final: The rate at the end, as a share of the full rate.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(self, warmup: float = 0.0, final: float = 0.0) -> None:
        super().__init__(warmup)
        self.final = _share("final", final)

    def _after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        return _cosine(1.0, self.final, (step - warmup) / max(1, total_steps - warmup))


class Step(LRSchedule):
    """The rate falls by a factor every few epochs.

    Args:
        every: Epochs between two falls.
        gamma: What the rate is multiplied by.
        warmup: The rate rises linearly from 0 over this many steps: below 1 a share of all steps, from 1 on a number.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(self, every: int = 30, gamma: float = 0.1, warmup: float = 0.0) -> None:
        super().__init__(warmup)
        if every < 1:
            raise UserError(f"The schedule's every is {every}, but must be at least 1 epoch.")
        self.every, self.gamma = every, _share("gamma", gamma)

    def _after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        return float(self.gamma ** (step // steps_per_epoch // self.every))


class OneCycle(LRSchedule):
    """Up along half a cosine, then down along another (Smith and Topin, "Super-Convergence", 2018).

    Args:
        peak: Where the full rate is reached, as a share of all steps.
        start: The rate at the start, as a share of the full rate.
        final: The rate at the end, as a share of the full rate.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(self, peak: float = 0.3, start: float = 0.04, final: float = 4e-6) -> None:
        super().__init__(0.0)
        self.peak, self.start, self.final = _share("peak", peak), _share("start", start), _share("final", final)

    def _after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        top = max(0.0, self.peak * total_steps - 1)
        if step < top:
            return _cosine(self.start, 1.0, step / top)
        return _cosine(1.0, self.final, (step - top) / max(1.0, total_steps - 1 - top))


class Plateau(LRSchedule):
    """The rate falls by a factor when the value that the model is selected by has stopped getting better.

    Args:
        patience: Epochs without a better value that are tolerated; the next one lowers the rate.
        factor: What the rate is multiplied by.
        warmup: The rate rises linearly from 0 over this many steps: below 1 a share of all steps, from 1 on a number.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(self, patience: int = 3, factor: float = 0.5, warmup: float = 0.0) -> None:
        super().__init__(warmup)
        if patience < 0:
            raise UserError(f"The schedule's patience is {patience}, but must be at least 0 epochs.")
        if not 0 < factor < 1:
            raise UserError(f"The schedule's factor is {factor}, but must be above 0 and below 1.")
        self.patience, self.shrink = patience, factor

    def build(self, optimizer: torch.optim.Optimizer, total_steps: int, steps_per_epoch: int) -> RunningSchedule:
        """See `LRSchedule.build`."""
        return RunningPlateau(
            optimizer,
            lambda step: self.factor(step, total_steps, steps_per_epoch),
            warmup=self.warmup_steps(total_steps),
            patience=self.patience,
            shrink=self.shrink,
        )

    def _after_warmup(self, step: int, warmup: int, total_steps: int, steps_per_epoch: int) -> float:
        return 1.0


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def _share(parameter: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise UserError(f"The schedule's {parameter} is {value}, but must be at least 0 and at most 1.")
    return value


family: Family[LRSchedule] = Family(
    "learning-rate schedule",
    LRSchedule,
    {"constant": Constant, "cosine": Cosine, "one_cycle": OneCycle, "plateau": Plateau, "step": Step},
)
names = family.names
create = family.create
