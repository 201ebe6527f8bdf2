"""Metrics of every task over a part of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polytask.data.batch import Batch
from polytask.row_values import join_values, map_values, select_values
from polytask.tasks import Task
from polytask.training.processes import Processes

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_BUFFER_ROWS = 8192
"""Rows gathered before the metrics see them: a metric costs the same for a small batch as for a large one."""


@dataclass
class _Gathered:
    """What waits to be given to one task's metrics."""

    metrics: MetricCollection
    outputs: list[Any] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    waiting: int = 0
    rows: int = 0
    loss: float = 0.0
    counted: float = 0.0
    """What the labels count whose losses are in `loss`, which is a sum."""

    def add_loss(self, task: Task, output: Any, target: Any, mask: Tensor) -> None:
        """Take in the loss of some rows."""
        count = float(task.total(target, mask))
        self.loss += float(task.loss(output, target, mask)) * count
        self.counted += count

    def parts(self) -> tuple[list[Any], list[Any], list[Tensor]]:
        """What waits: outputs, targets and masks."""
        return self.outputs, self.targets, self.masks


class Scorer:
    """Collects outputs and targets batch by batch, then gives each task's metrics.

    Args:
        tasks: The tasks to score.
        processes: Those that have their part of each batch: `update` and `compute` are called in all of them, equally
            often, and the first one sees all rows. None: this one alone.
    """

    def __init__(self, tasks: Sequence[Task], processes: Processes | None = None) -> None:
        self._processes = processes
        self._device = torch.device("cpu")
        self._tasks = {task.name: task for task in tasks}
        self._gathered = {task.name: _Gathered(task.metrics()) for task in tasks}
        for gathered in self._gathered.values():
            for metric in gathered.metrics.modules():
                # Metrics would ask the other processes, but one sees all rows.
                vars(metric)["distributed_available_fn"] = _never

    def update(self, outputs: Mapping[str, Any], batch: Batch) -> None:
        """Take in one batch.

        Args:
            outputs: For each task that has a label in `batch`, its outputs for the labelled rows, or for all rows.
            batch: The batch itself.
        """
        self._device = batch.rows.device
        for name, output in outputs.items():
            rows, target, mask = batch.labelled[name], batch.targets[name], batch.masks[name]
            given = map_values(output, _detached)
            if rows is not None:
                target, mask = select_values(target, rows), mask[rows]
                given = given if len(given) == len(rows) else select_values(given, rows)
            if len(target) == 0:
                continue
            task, gathered = self._tasks[name], self._gathered[name]
            if task.condenses:
                # What the loss reads is too large to be gathered.
                gathered.add_loss(task, given, target, mask)
            gathered.outputs.append(task.condensed(given))
            gathered.targets.append(target)
            gathered.masks.append(mask)
            gathered.waiting += len(target)
        full = [name for name in outputs if self._gathered[name].waiting >= self._most(name)]
        if self._processes is None:
            for name in full:
                self._flush(name)
        elif any(any(each) for each in self._processes.numbers([len(full)])):
            self._flush_together(self._processes)

    def compute(self) -> dict[str, dict[str, float]]:
        """`{task: {metric: value}}`, `loss` among the metrics; NaN where a value is not defined on these rows.

        A task without a label has no entry.
        """
        if self._processes is None:
            return self._computed()
        self._flush_together(self._processes)
        # The others get them from the first one, so that none decides otherwise for a rounding.
        return self._processes.first(self._computed() if self._processes.rank == 0 else {})

    def _computed(self) -> dict[str, dict[str, float]]:
        scores = {}
        for name, gathered in self._gathered.items():
            self._flush(name)
            if gathered.rows:
                values = {metric: float(value) for metric, value in gathered.metrics.compute().items()}
                loss = gathered.loss / gathered.counted if gathered.counted else 0.0
                scores[name] = {"loss": loss, **values}
        return scores

    def reset(self) -> None:
        """Forget all batches; new metrics would take several times as long as this."""
        for name, gathered in self._gathered.items():
            gathered.metrics.reset()
            self._gathered[name] = _Gathered(gathered.metrics)

    def _most(self, name: str) -> int:
        """How many rows of a task are gathered."""
        return 1 if self._tasks[name].condenses else _BUFFER_ROWS

    def _flush_together(self, processes: Processes) -> None:
        """Give the metrics of the first process what waits in all of them."""
        own = {
            name: ([[_moved(part, "cpu") for part in parts] for parts in each.parts()], each.loss, each.counted)
            for name, each in self._gathered.items()
            if each.waiting
        }
        found = processes.each(own)
        for name, gathered in self._gathered.items():
            if gathered.waiting:
                # It comes back with what waits.
                gathered.loss = gathered.counted = 0.0
            gathered.outputs, gathered.targets, gathered.masks, gathered.waiting = [], [], [], 0
            if processes.rank > 0:
                continue
            for parts, loss, counted in (each[name] for each in found if name in each):
                outputs, targets, masks = parts
                gathered.outputs += [_moved(part, self._device) for part in outputs]
                gathered.targets += [_moved(part, self._device) for part in targets]
                gathered.masks += [_moved(part, self._device) for part in masks]
                gathered.loss += loss
                gathered.counted += counted
            gathered.waiting = sum(len(part) for part in gathered.targets)
            self._flush(name)

    def _flush(self, name: str) -> None:
        gathered = self._gathered[name]
        if not gathered.waiting:
            return
        task = self._tasks[name]
        output, target, mask = (join_values(parts) for parts in gathered.parts())
        gathered.metrics.to(mask.device)
        task.update_metrics(gathered.metrics, output, target, mask)
        if not task.condenses:
            gathered.add_loss(task, output, target, mask)
        gathered.rows += gathered.waiting
        gathered.outputs, gathered.targets, gathered.masks, gathered.waiting = [], [], [], 0


def _detached(output: Tensor) -> Tensor:
    return output.detach().float() if output.is_floating_point() else output.detach()


def _moved(values: Any, device: torch.device | str) -> Any:
    """A tensor, row values, or a list of such by name for each row, on another device."""
    if isinstance(values, list):
        return [{name: value.to(device) for name, value in row.items()} for row in values]
    return map_values(values, lambda value: value.to(device))


def _never() -> bool:
    return False


def baseline_outputs(tasks: Sequence[Task], batch: Batch) -> dict[str, Any]:
    """Each task's best constant output, for every row of `batch`, for the tasks that have a label in it."""
    device = batch.rows.device
    baselines = {task.name: task.baseline(len(batch)) for task in tasks if batch.has(task.name)}
    return {name: map_values(values, lambda tensor: tensor.to(device)) for name, values in baselines.items()}
