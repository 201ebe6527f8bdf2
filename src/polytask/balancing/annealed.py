"""Weights of auxiliary tasks that fade out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from polytask.balancing.balancer import Score
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.main_tasks import MainTasks
from polytask.errors import UserError


class Annealed(LossBalancer):
    """Annealed weights: the auxiliary tasks go from a weight at the start to one at the end, the main tasks keep 1.

    After Belharbi, Hérault, Chatelain and Adam, "Deep Multi-Task Learning with Evolving Weights", ESANN 2016, who let
    the weight of an auxiliary task evolve over the epochs, so that it shapes the features early and is out of the way
    late: training then ends on the main tasks' own objective. With `p` the share of the steps (or epochs) that are
    over, at most 1, the weight is `start + (end - start) p` (`linear`), `end + (start - end) (1 + cos(π p)) / 2`
    (`cosine`), or `start (end / start)^p` (`exponential`). Afterwards it stays at `end`.

    The weights multiply whole losses, those of the auxiliary tasks' own heads too. Steps are counted whatever tasks are
    in them. It can also go up, where the auxiliary tasks are to come in slowly.

    Args:
        main: The name of the main task, or the names of several; None: in a configuration, the tasks that are not
            auxiliary.
        start: The weight of the other tasks in the first step.
        end: Their weight at the end.
        steps: How many steps it takes. Null: epochs are counted.
        epochs: How many epochs it takes, by `epoch_end()`: the weights stay the same within one. Null: steps are
            counted.
        curve: The way from `start` to `end`.

    Raises:
        UserError: A value is out of range; not just one of `steps` and `epochs` is given; `main` is empty or, where the
            tasks are known, none of them.
    """

    paper = "Belharbi, Hérault, Chatelain and Adam, Deep Multi-Task Learning with Evolving Weights, ESANN 2016"
    year = 2016

    def __init__(
        self,
        main: str | Sequence[str] | None = None,
        start: float = 1.0,
        end: float = 0.0,
        steps: int | None = None,
        epochs: int | None = None,
        *,
        curve: Literal["linear", "cosine", "exponential"] = "linear",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if curve not in ("linear", "cosine", "exponential"):
            raise UserError(f"annealed: curve is '{curve}', but must be 'linear', 'cosine' or 'exponential'.")
        for name, value in (("start", start), ("end", end)):
            if not 0 <= value < math.inf:
                raise UserError(f"annealed: {name} is {value}, but must be a number of at least 0.")
            if curve == "exponential" and value == 0:
                raise UserError(f"annealed: {name} is 0, which no exponential reaches. Give a small number, as 0.01.")
        if (steps is None) == (epochs is None):
            raise UserError("annealed: give either steps or epochs: how many of them it takes from start to end.")
        for name, count in (("steps", steps), ("epochs", epochs)):
            if count is not None and count < 1:
                raise UserError(f"annealed: {name} is {count}, but must be at least 1.")
        self.main = MainTasks("annealed", main)
        self.start, self.end, self.steps, self.epochs, self.curve = start, end, steps, epochs, curve
        self._over = 0

    @property
    def additive(self) -> bool:
        """See `Balancer.additive`: where epochs are counted."""
        return self.steps is None and not (self.log_losses or self._weighting.changes)

    @property
    def weight(self) -> float:
        """The weight of an auxiliary task now."""
        length = self.steps or self.epochs
        assert length is not None
        share = min(1.0, self._over / length)
        if self.curve == "linear":
            return self.start + (self.end - self.start) * share
        if self.curve == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2
        return float(self.start * (self.end / self.start) ** share)

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A main task is no task.
        """
        self.main.prepare(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        main = self.main.among(self.tasks_of(losses)).to(losses.device, non_blocking=True)
        return (torch.ones_like(losses).where(main, self.weight) * losses).sum()

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: count a step."""
        self._over += self.steps is not None

    def epoch_end(self, scores: Mapping[str, Score] | None = None) -> None:
        """See `Balancer.epoch_end`: count an epoch."""
        self._over += self.epochs is not None

    def get_extra_state(self) -> int:
        """The number of steps, or epochs, that are over."""
        return self._over

    def set_extra_state(self, state: int) -> None:
        """Take it back."""
        self._over = state
