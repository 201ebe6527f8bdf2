"""The steps' losses and weights, kept on the device and looked at in intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polytask.errors import UserError


class NonFiniteLoss(UserError):
    """A task's loss is not a number any more."""

    def __init__(self, task: str, step: int, value: float) -> None:
        super().__init__(
            f"The loss of task '{task}' became {value} at batch {step + 1} of the run. The checkpoints of complete "
            "epochs are kept. Try a lower training.optimizer.lr, a smaller training.gradient_clip, or "
            f"training.precision=32, and look for extreme values in the target and the inputs of '{task}'."
        )


class StepLog:
    """Means of each task's loss and weight over an epoch, at one device-to-host copy each `every` batches.

    Each batch leaves one stacked, detached tensor on the device. A loss that is not finite is therefore found up to
    `every` batches late, but its task and batch are named exactly.

    Args:
        tasks: The tasks' names, in order.
        every: Batches between two looks.
    """

    def __init__(self, tasks: Sequence[str], every: int) -> None:
        self._tasks = tuple(tasks)
        self._every = every
        self._waiting: list[Tensor] = []
        self._present: list[tuple[str, ...]] = []
        self._rows_seen: list[tuple[int, ...]] = []
        self.listener: Callable[[StepLog], None] | None = None
        self.batches = 0
        self.start_epoch()

    def start_epoch(self) -> None:
        """Forget the means of the epoch before."""
        self._totals = {task: _Total() for task in self._tasks}

    def add(self, tasks: Sequence[str], losses: Tensor, weights: Tensor | None, rows: Sequence[int]) -> None:
        """Keep the numbers of one batch.

        Args:
            tasks: The k tasks that are in the batch.
            losses: Their losses before weighting, `[k]`, detached.
            weights: Their weights as the balancer gave them, `[k]`, detached; None where it has none.
            rows: How many rows of the batch are labelled for each.
        """
        self._present.append(tuple(tasks))
        self._rows_seen.append(tuple(rows))
        weights = losses.new_full(losses.shape, math.nan) if weights is None else weights.to(losses)
        self._waiting.append(torch.cat([losses, weights]))
        if len(self._waiting) >= self._every:
            self.flush()

    def flush(self) -> None:
        """Look at what waits.

        Raises:
            NonFiniteLoss: A loss was NaN or infinite.
        """
        if not self._waiting:
            return
        values = torch.cat(self._waiting).cpu().tolist()
        start = 0
        for tasks, rows in zip(self._present, self._rows_seen, strict=True):
            losses = values[start : start + len(tasks)]
            weights = values[start + len(tasks) : start + 2 * len(tasks)]
            start += 2 * len(tasks)
            for task, loss, weight, count in zip(tasks, losses, weights, rows, strict=True):
                if not math.isfinite(loss):
                    raise NonFiniteLoss(task, self.batches, loss)
                self._totals[task].add(loss, weight, count)
            self.batches += 1
        self._waiting, self._present, self._rows_seen = [], [], []
        if self.listener is not None:
            self.listener(self)

    def epoch_means(self) -> dict[str, float]:
        """`{"task/train/loss": mean over labelled rows, "task/train/weight": mean over batches}` since the epoch began.

        Tasks without a label so far have no entry, and weights have none where the balancer has none.
        """
        means = {}
        for task, total in self._totals.items():
            if total.rows:
                means[f"{task}/train/loss"] = total.loss / total.rows
                if math.isfinite(total.weight):
                    means[f"{task}/train/weight"] = total.weight / total.batches
        return means


@dataclass
class _Total:
    """Sums over the batches of an epoch for one task."""

    loss: float = 0.0
    weight: float = 0.0
    rows: int = 0
    batches: int = 0

    def add(self, loss: float, weight: float, rows: int) -> None:
        self.loss += loss * rows
        self.weight += weight
        self.rows += rows
        self.batches += 1
