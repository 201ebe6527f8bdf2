"""What the tasks came to in an epoch, as all those see it who go by it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from polytask.balancing import Score
from polytask.schedules import EpochReport
from polytask.tasks import Task
from polytask.tasks.metrics import direction
from polytask.training.selection import Scores, criterion_value, gain, mean_gain, stage_of


@dataclass(frozen=True)
class EpochResults:
    """What the tasks came to in an epoch.

    Attributes:
        tasks: All tasks.
        started: Those that have taken part in any step so far.
        losses: The mean loss of each task that took part in the epoch.
        scores: Each task's metrics on validation data; empty: there was no validation.
        baseline: The same of the tasks' best constant predictions.
    """

    tasks: Mapping[str, Task]
    started: Collection[str]
    losses: Mapping[str, float]
    scores: Scores
    baseline: Scores

    @property
    def started_tasks(self) -> dict[str, Task]:
        """The tasks that have started."""
        return {name: self.tasks[name] for name in self.started}

    @property
    def gains(self) -> dict[str, float]:
        """The gain of each task; none where there was no validation."""
        scored = self.tasks if self.scores else {}
        return {name: gain(task, self.scores, self.baseline) for name, task in scored.items()}

    def value(self, criterion: str) -> float:
        """The value of a criterion, for the tasks that have started; NaN where it is not defined."""
        return criterion_value(criterion, self.started_tasks, self.scores, self.baseline)

    def stage(self, criterion: str) -> int:
        """See `stage_of`."""
        return stage_of(criterion, self.tasks, self.started)

    def record(self) -> dict[str, float]:
        """The scores, and the mean gain, as entries of an epoch's record."""
        found = {
            f"{task}/valid/{name}": value for task, scores in self.scores.items() for name, value in scores.items()
        }
        if self.scores:
            found["valid/mean_gain"] = mean_gain(self.started_tasks, self.scores, self.baseline)
        return found

    def for_balancer(self) -> dict[str, Score] | None:
        """The tasks' main metrics; None where there was no validation."""
        if not self.scores:
            return None
        gains = self.gains
        return {
            name: Score(self.scores[name][task.metric], direction(task.metric) == "max", gains[name])
            for name, task in self.tasks.items()
            if task.metric in self.scores.get(name, {})
        }

    def for_schedule(self, cosines: np.ndarray | None) -> EpochReport:
        """What a schedule chooses by.

        Args:
            cosines: See `EpochReport`.
        """
        metrics = {metric for scores in self.scores.values() for metric in scores}
        higher_is_better = {metric: direction(metric) == "max" for metric in metrics}
        return EpochReport(self.losses, self.scores, self.gains, higher_is_better, cosines)
