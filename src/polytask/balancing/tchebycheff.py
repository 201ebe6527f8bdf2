"""The greatest of the weighted losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.task_values import TaskValues


class Tchebycheff(LossBalancer):
    """Weighted Tchebycheff scalarisation: `L = max_k w_k (L_k - z_k)`.

    From Steuer and Choo, "An Interactive Weighted Tchebycheff Procedure for Multiple Objective Programming",
    Mathematical Programming 1983. Unlike a weighted sum it reaches, for some weights, every Pareto-optimal point, also
    where the front is not convex. A step trains the worst task alone: its gradient times `w_k`, 0 for all others (tasks
    that tie share it). It jumps between the tasks and converges slowly; `stch` is the smooth form.

    Args:
        weights: `w_k` of each task, at least 0, by task name or in the order of the tasks: at the end, the distances of
            the losses from their ideal values relate as `1 / w_k`, where the front has such a point. None: 1 for each.
        ideal: `z_k` of each task: a loss that it cannot fall below. None: 0.

    Raises:
        UserError: A weight is negative, or a value is not a number.
    """

    paper = (
        "Steuer and Choo, An Interactive Weighted Tchebycheff Procedure for Multiple Objective Programming, "
        "Mathematical Programming 1983"
    )
    year = 1983

    def __init__(
        self,
        weights: Mapping[str, float] | Sequence[float] | None = None,
        ideal: Mapping[str, float] | Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._weights = None if weights is None else TaskValues("tchebycheff", "weight", weights, minimum=0.0)
        self._ideal = None if ideal is None else TaskValues("tchebycheff", "ideal value", ideal)

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A task has no weight or ideal value, or one of these no task.
        """
        for values in (self._weights, self._ideal):
            if values is not None:
                values.prepare(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        tasks = self.tasks_of(losses)
        distances = losses if self._ideal is None else losses - self._ideal.read(tasks, losses)
        if self._weights is not None:
            distances = self._weights.read(tasks, losses) * distances
        return distances.amax()
