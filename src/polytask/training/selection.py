"""Which epoch is the best, and when to stop: choices on validation data, free of the losses' units."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from polytask.config.training_schema import MEAN_GAIN
from polytask.tasks import Task
from polytask.tasks.metrics import direction, optimum

Scores = Mapping[str, Mapping[str, float]]


def gain(task: Task, scores: Scores, baseline: Scores) -> float:
    """How much of the baseline's error the model removes in a task's main metric.

    `1 - |m* - m| / |m* - b|` with m the model's value, b the baseline's (the best constant prediction, learned from the
    training part) and m* the best possible one: 0 is no better than the constant, 1 is perfect, below 0 is worse. For
    an error such as MAE this is the relative gain over the baseline.

    Returns:
        The gain, NaN where the metric is not defined here or the constant prediction is already perfect.
    """
    value = scores.get(task.name, {}).get(task.metric, math.nan)
    base = baseline.get(task.name, {}).get(task.metric, math.nan)
    error, reference = abs(optimum(task.metric) - value), abs(optimum(task.metric) - base)
    if not math.isfinite(error) or not math.isfinite(reference) or reference == 0:
        return math.nan
    return 1 - error / reference


def mean_gain(tasks: Mapping[str, Task], scores: Scores, baseline: Scores) -> float:
    """Mean of `gain` over the tasks that are not auxiliary, where it is defined; NaN where it is for none."""
    main = [task for task in tasks.values() if not task.auxiliary]
    gains = [value for task in main if math.isfinite(value := gain(task, scores, baseline))]
    return sum(gains) / len(gains) if gains else math.nan


@dataclass
class Best:
    """The best value of a criterion so far.

    Args:
        criterion: `mean_gain`, or `task/valid/metric`.
        patience: Stop after this many evaluations without a better value; None: never.
        min_delta: How much better a value must be to count for patience.
        value: The best value so far; NaN before the first.
        epoch: Its epoch.
        waited: Evaluations since a value that counted.
        reference: The value that patience counts from.
        stage: The stage that the best value is of; see `stage_of`.
    """

    criterion: str = MEAN_GAIN
    patience: int | None = None
    min_delta: float = 0.0
    value: float = math.nan
    epoch: int = -1
    waited: int = 0
    reference: float = math.nan
    stage: int = 0

    @property
    def higher_is_better(self) -> bool:
        """The direction of the criterion."""
        return self.criterion == MEAN_GAIN or direction(self.criterion.rsplit("/", 1)[1]) == "max"

    def update(self, value: float, epoch: int, *, stage: int = 0, hold: bool = False) -> bool:
        """Take in the value of an epoch; true where it is the best so far. A NaN is never the best.

        Args:
            value: The value.
            epoch: Its epoch, counted from 0.
            stage: What earlier stages have reached is forgotten: their values are not of the same tasks.
            hold: Whether patience has not begun to run out yet.
        """
        if stage > self.stage:
            self.stage = stage
            self.value, self.epoch, self.reference, self.waited = math.nan, -1, math.nan, 0
        if self._better(value, self.reference, self.min_delta):
            self.reference, self.waited = value, 0
        elif not hold:
            self.waited += 1
        if not self._better(value, self.value, 0.0):
            return False
        self.value, self.epoch = value, epoch
        return True

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {name: getattr(self, name) for name in ("value", "epoch", "waited", "reference", "stage")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        for name, value in state.items():
            setattr(self, name, value)

    def _better(self, value: float, than: float, margin: float) -> bool:
        if math.isnan(value):
            return False
        if math.isnan(than):
            return True
        return value > than + margin if self.higher_is_better else value < than - margin


def stage_of(criterion: str, tasks: Mapping[str, Task], started: Collection[str]) -> int:
    """How many of the tasks that a criterion goes by have started.

    Of the mean gain these are all that are not auxiliary. While some are still to come it is a mean over fewer tasks
    than later, and no value to compare with: so with each one that starts, the choice begins anew. The best epoch is
    then one in which all had started, or, where some never do, as many as ever did.
    """
    if criterion == MEAN_GAIN:
        return sum(name in started for name, task in tasks.items() if not task.auxiliary)
    return int(criterion.partition("/")[0] in started)


def criterion_value(criterion: str, tasks: Mapping[str, Task], scores: Scores, baseline: Scores) -> float:
    """The value of a criterion on an evaluation; NaN where it is not defined."""
    if criterion == MEAN_GAIN:
        return mean_gain(tasks, scores, baseline)
    task, _, metric = criterion.split("/")
    return scores.get(task, {}).get(metric, math.nan)
