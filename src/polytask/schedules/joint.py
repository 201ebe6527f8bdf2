"""All tasks in every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from polytask.schedules.report import Turn
from polytask.schedules.schedule import Schedule


class Joint(Schedule):
    """All tasks take part in every step.

    The tasks' gradients meet in each step, which is what balancers work on. How often a task is seen follows from how
    many rows are labelled for it, unless rows are drawn for each task by itself.

    Args:
        draw: `rows`: a step draws rows that are labelled for any task, and each counts for all the tasks that it is
            labelled for. `tasks`: it draws each task's own number of rows (`training.tasks.NAME.batch_size`) from those
            that are labelled for it, and each counts for this task alone; small tasks come round more often.
    """

    def __init__(self, draw: Literal["rows", "tasks"] = "rows") -> None:
        self.draw = draw

    @property
    def separately(self) -> bool:
        """See `Schedule.separately`."""
        return self.draw == "tasks"

    def pools(self, epoch: int) -> Mapping[Turn, float]:
        """See `Schedule.pools`."""
        return {self.tasks: 1.0}

    def turns(self, epoch: int, steps: int, generator: np.random.Generator) -> Sequence[Turn]:
        """See `Schedule.turns`."""
        return [self.tasks] * steps
