"""Weights that the user sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.task_values import TaskValues


class Static(LossBalancer):
    """Fixed weights, also called linear scalarisation: `L = sum_k w_k L_k`.

    With well-chosen weights it matches or beats the adaptive methods on many problems (Xin, Ghorbani, Gilmer, Garg,
    Firat, "Do Current Multi-Task Optimization Methods in Deep Learning Even Help?", NeurIPS 2022).

    Args:
        weights: A weight for each task, at least 0, by task name or in the order of the tasks.

    Raises:
        UserError: A weight is negative or not a number.
    """

    paper = "Xin et al., Do Current Multi-Task Optimization Methods in Deep Learning Even Help?, NeurIPS 2022"
    year = 2022
    fixed_weights = True

    def __init__(self, weights: Mapping[str, float] | Sequence[float], **options: Any) -> None:
        super().__init__(**options)
        self._weights = TaskValues("static", "weight", weights, minimum=0.0)

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A task has no weight, or a weight no task.
        """
        self._weights.prepare(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        return (self._weights.read(self.tasks_of(losses), losses) * losses).sum()
