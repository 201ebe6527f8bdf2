"""The tasks' losses on a batch, one by one or several at once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from polytask.data.batch import Batch
from polytask.model.batch_labels import labels_of, mask_of
from polytask.tasks import Task
from polytask.tasks.together import is_plain_linear, losses_together, outputs_together

_MULTIPLICATIONS_OF_A_CALL = 500_000
"""How many multiplications take about as long as the calls of one task, forward and backward, some 0.1 ms."""


class TaskLosses:
    """Losses from outputs, or for tasks of one kind from the features that they share.

    Args:
        tasks: The tasks by name.
        heads: Their heads.
    """

    def __init__(self, tasks: Mapping[str, Task], heads: Mapping[str, nn.Module]) -> None:
        # Plain dictionaries: looking up a module's modules takes as long as all else here.
        self._tasks = dict(tasks)
        self._heads = dict(heads)

    def loss(self, batch: Batch, name: str, output: Any, total: Tensor | None) -> Tensor:
        """A task's loss, given its outputs for the rows that are labelled for it."""
        task, labels = self._tasks[name], labels_of(batch, name)
        if len(labels) > 1 and total is None:
            total = self.total(batch, name)
        first, *others = (task.loss(output, *each, total) for each in labels)
        return first + others[0] if others else first

    def total(self, batch: Batch, name: str) -> Tensor:
        """What the rows that are labelled for a task count together in its mean loss, a scalar."""
        first, *others = (self._tasks[name].total(*each) for each in labels_of(batch, name))
        return first + others[0] if others else first

    def groups(self, batch: Batch, tasks: Sequence[str]) -> list[tuple[str, ...]]:
        """The tasks, several each, that are best computed together; for all rows, where some lack labels.

        Args:
            batch: The rows, which are not mixed.
            tasks: Tasks that read the same features.
        """
        known, heads = self._tasks, self._heads
        kinds: dict[Hashable, list[str]] = {}
        for name in tasks:
            kin = known[name].kin
            if kin is not None and is_plain_linear(heads[name]):
                kinds.setdefault(kin, []).append(name)
        return [tuple(names) for names in kinds.values() if len(names) > 1 and self._pays(batch, names)]

    def of_group(
        self, group: Sequence[str], features: Tensor, batch: Batch, totals: Mapping[str, Tensor] | None
    ) -> Tensor:
        """The losses `[K]` of tasks that are computed together.

        Args:
            group: The K tasks.
            features: `[B, D]`, of all rows.
            batch: The rows.
            totals: As in `MultiTaskModel.objectives`.
        """
        tasks, heads = self._tasks, self._heads
        return losses_together(
            [tasks[name] for name in group],
            outputs_together([cast("nn.Linear", heads[name]) for name in group], features),
            [cast("Tensor", batch.targets[name]) for name in group],
            [mask_of(batch, name) for name in group],
            weights=[batch.weights.get(name) for name in group],
            totals=None if totals is None else [totals[name] for name in group],
        )

    def _pays(self, batch: Batch, names: Sequence[str]) -> bool:
        """Whether what is computed for rows without a label costs less than a call for each task."""
        unlabelled = sum(len(batch) - batch.count(name) for name in names if batch.labelled[name] is not None)
        size = sum(parameter.numel() for parameter in self._heads[names[0]].parameters())
        return unlabelled * size <= _MULTIPLICATIONS_OF_A_CALL * len(names)
