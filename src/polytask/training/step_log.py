"""The steps' losses and weights, kept on the device and looked at in intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polytask.errors import UserError
from polytask.training.semi_supervised import UnlabelledStep


class NonFiniteLoss(UserError):
    """A task's loss, or a penalty of the sharing scheme, is not a number any more."""

    def __init__(self, task: str, step: int, value: float, *, penalty: bool = False, unlabelled: bool = False) -> None:
        what = f"penalty '{task}' of model.sharing" if penalty else f"loss of task '{task}'"
        what += " on rows without labels" * unlabelled
        where = "" if penalty else f", and look for extreme values in the target and the inputs of '{task}'"
        super().__init__(
            f"The {what} became {value} at batch {step + 1} of the run. The checkpoints of complete epochs are kept. "
            "Try a lower training.optimizer.lr, a smaller training.gradient_clip, or training.precision=32"
            + where
            + "."
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
        self._totals_seen: list[tuple[str, ...]] = []
        self._added: list[tuple[str, ...]] = []
        self._unlabelled_seen: list[list[tuple[str, int]]] = []
        self.listener: Callable[[StepLog], None] | None = None
        self.batches = 0
        self.start_epoch()

    def start_epoch(self) -> None:
        """Forget the means of the epoch before."""
        self._totals = {task: _Total() for task in self._tasks}
        self._penalties: dict[str, _Total] = {}
        self._unlabelled: dict[str, _Total] = {}

    def add(
        self,
        tasks: Sequence[str],
        losses: Tensor,
        weights: Tensor | None,
        rows: Sequence[int],
        penalties: Mapping[str, Tensor] | None = None,
        *,
        totals: Mapping[str, Tensor] | None = None,
        unlabelled: Mapping[str, UnlabelledStep] | None = None,
    ) -> None:
        """Keep the numbers of one batch.

        Args:
            tasks: The k tasks that are in the batch.
            losses: Their losses before weighting, `[k]`, detached.
            weights: Their weights as the balancer gave them, `[k]`, detached; None where it has none for them.
            rows: How many rows of the batch are labelled for each.
            penalties: What the sharing scheme adds to the objective, scalars by name.
            totals: What these rows count together in the mean loss, scalars by task, where that is not their number.
            unlabelled: What the rows without labels have shown, by task.
        """
        penalties, totals = penalties or {}, totals or {}
        self._added.append(tuple(penalties))
        self._present.append(tuple(tasks))
        self._rows_seen.append(tuple(rows))
        self._totals_seen.append(tuple(totals))
        weights = losses.new_full(losses.shape, math.nan) if weights is None else weights.to(losses)
        more = [*totals.values(), *penalties.values()]
        seen = []
        for task, step in (unlabelled or {}).items():
            for name, value in (("unlabelled", step.loss), ("confident", step.confident)):
                if value is not None:
                    seen.append((f"{task}/train/{name}", step.entries))
                    more.append(value)
        self._unlabelled_seen.append(seen)
        self._waiting.append(torch.cat([losses, weights, *(value.detach().to(losses).view(1) for value in more)]))
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
        waiting = zip(
            self._present, self._rows_seen, self._totals_seen, self._added, self._unlabelled_seen, strict=True
        )
        for tasks, rows, counted, added, unlabelled in waiting:
            losses = values[start : start + len(tasks)]
            weights = values[start + len(tasks) : start + 2 * len(tasks)]
            start += 2 * len(tasks)
            totals = dict(zip(counted, values[start : start + len(counted)], strict=True))
            start += len(counted)
            penalties = values[start : start + len(added)]
            start += len(added)
            for task, loss, weight, count in zip(tasks, losses, weights, rows, strict=True):
                if not math.isfinite(loss):
                    raise NonFiniteLoss(task, self.batches, loss)
                self._totals[task].add(loss, weight, totals.get(task, count))
            for name, penalty in zip(added, penalties, strict=True):
                if not math.isfinite(penalty):
                    raise NonFiniteLoss(name, self.batches, penalty, penalty=True)
                self._penalties.setdefault(name, _Total()).add(penalty, 0.0, 1)
            for key, entries in unlabelled:
                if not math.isfinite(values[start]):
                    raise NonFiniteLoss(key.partition("/")[0], self.batches, values[start], unlabelled=True)
                self._unlabelled.setdefault(key, _Total()).add(values[start], 0.0, entries)
                start += 1
            self.batches += 1
        self._waiting, self._present, self._rows_seen, self._totals_seen = [], [], [], []
        self._added, self._unlabelled_seen = [], []
        if self.listener is not None:
            self.listener(self)

    def state_dict(self) -> dict[str, Any]:
        """What was seen since the epoch began, ready for a checkpoint; what still waits is looked at.

        Raises:
            NonFiniteLoss: A loss was NaN or infinite.
        """
        self.flush()
        return {
            "batches": self.batches,
            "tasks": {task: list(vars(total).values()) for task, total in self._totals.items()},
            "penalties": {name: list(vars(total).values()) for name, total in self._penalties.items()},
            "unlabelled": {key: list(vars(total).values()) for key, total in self._unlabelled.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.batches = state["batches"]
        self._totals |= {task: _Total(*values) for task, values in state["tasks"].items()}
        self._penalties = {name: _Total(*values) for name, values in state["penalties"].items()}
        self._unlabelled = {key: _Total(*values) for key, values in state["unlabelled"].items()}

    def epoch_means(self) -> dict[str, float]:
        """`{"task/train/loss": mean over labelled rows, "task/train/weight": mean over batches}` since the epoch began.

        The rows of a task with a `sample_weight` count in this mean as they do in that of a batch. Else each batch
        counts by its number of labelled rows, also where classes or single labels of a row have weights. Tasks without
        a label so far have no entry. A weight is the mean over the batches for which the balancer has one. A penalty of
        the sharing scheme is `sharing/train/NAME`, its mean over the batches. Rows without labels have
        `task/train/unlabelled`, the mean loss over the entries that lack one, and `task/train/confident`, the share of
        them that a label was made up for.
        """
        means = {}
        for task, total in self._totals.items():
            if total.rows > 0:
                means[f"{task}/train/loss"] = total.loss / total.rows
                if total.weighed:
                    means[f"{task}/train/weight"] = total.weight / total.weighed
        means.update({f"sharing/train/{name}": total.loss / total.rows for name, total in self._penalties.items()})
        means.update({key: total.loss / total.rows for key, total in self._unlabelled.items()})
        return means


@dataclass
class _Total:
    """Sums over the batches of an epoch for one task."""

    loss: float = 0.0
    weight: float = 0.0
    rows: float = 0  # or what they count
    weighed: int = 0  # batches whose weight is known

    def add(self, loss: float, weight: float, rows: float) -> None:
        self.loss += loss * rows
        self.rows += rows
        if math.isfinite(weight):
            self.weight += weight
            self.weighed += 1
