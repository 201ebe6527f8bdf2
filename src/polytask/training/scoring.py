"""Metrics of every task over a part of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polytask.data.batch import Batch
from polytask.tasks import Task

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_BUFFER_ROWS = 8192
"""Rows gathered before the metrics see them: a metric costs the same for a small batch as for a large one."""


@dataclass
class _Gathered:
    """What waits to be given to one task's metrics."""

    metrics: MetricCollection
    outputs: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    waiting: int = 0
    rows: int = 0
    loss: float = 0.0


class Scorer:
    """Collects outputs and targets batch by batch, then gives each task's metrics.

    Args:
        tasks: The tasks to score.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._gathered = {task.name: _Gathered(task.metrics()) for task in tasks}

    def update(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Take in one batch.

        Args:
            outputs: For each task that has a label in `batch`, its outputs for the labelled rows, or for all rows.
            batch: The batch itself.
        """
        for name, output in outputs.items():
            rows, target, mask = batch.labelled[name], batch.targets[name], batch.masks[name]
            if rows is not None:
                target, mask = target[rows], mask[rows]
            if len(target) == 0:
                continue
            whole = rows is not None and len(output) != len(rows)
            gathered = self._gathered[name]
            gathered.outputs.append((output[rows] if whole else output).detach().float())
            gathered.targets.append(target)
            gathered.masks.append(mask)
            gathered.waiting += len(target)
            if gathered.waiting >= _BUFFER_ROWS:
                self._flush(name)

    def compute(self) -> dict[str, dict[str, float]]:
        """`{task: {metric: value}}`, `loss` among the metrics; NaN where a value is not defined on these rows.

        A task without a label has no entry.
        """
        scores = {}
        for name, gathered in self._gathered.items():
            self._flush(name)
            if gathered.rows:
                values = {metric: float(value) for metric, value in gathered.metrics.compute().items()}
                scores[name] = {"loss": gathered.loss / gathered.rows, **values}
        return scores

    def reset(self) -> None:
        """Forget all batches; new metrics would take several times as long as this."""
        for name, gathered in self._gathered.items():
            gathered.metrics.reset()
            self._gathered[name] = _Gathered(gathered.metrics)

    def _flush(self, name: str) -> None:
        gathered = self._gathered[name]
        if not gathered.waiting:
            return
        task = self._tasks[name]
        output, target, mask = (torch.cat(parts) for parts in (gathered.outputs, gathered.targets, gathered.masks))
        gathered.metrics.to(output.device)
        task.update_metrics(gathered.metrics, output, target, mask)
        gathered.loss += float(task.loss(output, target, mask)) * gathered.waiting
        gathered.rows += gathered.waiting
        gathered.outputs, gathered.targets, gathered.masks, gathered.waiting = [], [], [], 0


def baseline_outputs(tasks: Sequence[Task], batch: Batch) -> dict[str, Tensor]:
    """Each task's best constant output, for every row of `batch`, for the tasks that have a label in it."""
    device = batch.rows.device
    return {task.name: task.baseline(len(batch)).to(device) for task in tasks if batch.has(task.name)}
