"""Weights that the user sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polytask.balancing.balancer import LossBalancer
from polytask.errors import UserError, closest, listing


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

    def __init__(self, weights: Mapping[str, float] | Sequence[float]) -> None:
        super().__init__()
        named = weights if isinstance(weights, Mapping) else {str(i): w for i, w in enumerate(weights)}
        for task, weight in named.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"static: the weight of task '{task}' is {weight}, but must be a number of at least 0.")
        if not named:
            raise UserError("static: there are no weights. Give one for each task.")
        self._in_order = None if isinstance(weights, Mapping) else tuple(weights)
        self._weights = dict(named) if isinstance(weights, Mapping) else None
        self._row: Tensor | None = None
        self._row_tasks: tuple[str, ...] = ()

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A task has no weight, or a weight no task.
        """
        weights = self._named(tasks)
        for task in weights:
            if task not in tasks:
                raise UserError(
                    f"static: there is a weight for '{task}', which is no task.{closest(task, tasks)} The tasks: "
                    f"{listing(tasks)}."
                )
        self._check(tasks, weights)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        return (self._weights_for(losses) * losses).sum()

    def _weights_for(self, losses: Tensor) -> Tensor:
        tasks = self.tasks_of(losses)
        row = self._row
        if row is None or self._row_tasks != tasks or row.dtype != losses.dtype or row.device != losses.device:
            weights = self._named(tasks)
            self._check(tasks, weights)
            values = torch.tensor([float(weights[task]) for task in tasks], dtype=losses.dtype)
            row = values.to(losses.device, non_blocking=True)
            # Kept, so that the weights move to the device once and not at every step.
            self._row, self._row_tasks = row, tasks
        return row

    def _named(self, tasks: Sequence[str]) -> dict[str, float]:
        """The weights by task name; weights in order are for the first tasks that this meets."""
        if self._weights is None:
            assert self._in_order is not None
            if len(tasks) != len(self._in_order):
                raise UserError(
                    f"static: there are {len(self._in_order)} weights for {len(tasks)} tasks, {listing(tasks)}. "
                    "Give one for each, or weights by task name; where a step can lack a task, call "
                    "prepare(task_names) first."
                )
            self._weights = dict(zip(tasks, self._in_order, strict=True))
        return self._weights

    def _check(self, tasks: Sequence[str], weights: Mapping[str, float]) -> None:
        for task in tasks:
            if task not in weights:
                raise UserError(
                    f"static: there is no weight for task '{task}'.{closest(task, weights)} There are weights for: "
                    f"{listing(weights)}."
                )
