"""The rows of one step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B rows, encoded.

    Attributes:
        inputs: What each encoder reads, by input name: a tensor, or tensors by name, with B rows each.
        targets: Each task's target: int64 `[B]` (category), float32 `[B, L]` of 0 and 1 (labels), float32 `[B, M]` in
            the user's units (numbers). What is missing holds 0.
        masks: Where `targets` has a label: bool, of the same shape as the target.
        labelled: For each task, the rows with at least one label, int64; None where all rows have one. Known while
            the batch is on the CPU, so that a step never waits for the device to learn which tasks are in it.
        rows: The rows' positions in their table, int64 `[B]`.
        weights: What each row counts in a task's mean loss, float32 `[B]`; no entry: all the same.
    """

    inputs: Mapping[str, Any]
    targets: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    labelled: Mapping[str, Tensor | None]
    rows: Tensor
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(
        inputs: Mapping[str, Any],
        targets: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        rows: Tensor,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Batch:
        """A batch with `labelled` derived from the masks."""
        labelled = {task: _labelled_rows(mask) for task, mask in masks.items()}
        return Batch(inputs, targets, masks, labelled, rows, weights or {})

    def __len__(self) -> int:
        return self.rows.shape[0]

    def count(self, task: str) -> int:
        """How many rows are labelled for `task`; none where the batch does not know the task."""
        if task not in self.labelled:
            return 0
        rows = self.labelled[task]
        return (self.rows if rows is None else rows).shape[0]  # several times as fast as `len`

    def has(self, task: str) -> bool:
        """Whether any row is labelled for `task`."""
        return self.count(task) > 0

    def without(self, tasks: Collection[str]) -> Batch:
        """The same rows without what is known of some tasks."""

        def others(values: Mapping[str, Any]) -> dict[str, Any]:
            return {task: value for task, value in values.items() if task not in tasks}

        return replace(
            self,
            targets=others(self.targets),
            masks=others(self.masks),
            labelled=others(self.labelled),
            weights=others(self.weights),
        )

    def part(self, rows: Tensor) -> Batch:
        """Some of the rows, by their numbers in this batch; on a device, it is waited for."""
        smaller = self._map(lambda tensor: tensor[rows.to(tensor.device)], only_rows=True)
        return Batch.of(smaller.inputs, smaller.targets, smaller.masks, smaller.rows, smaller.weights)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by the DataLoader)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor], *, only_rows: bool = False) -> Batch:
        over = partial(_over, function)
        return replace(
            self,
            inputs=over(self.inputs),
            targets=over(self.targets),
            masks=over(self.masks),
            # These are numbers of rows, not rows.
            labelled=self.labelled if only_rows else over(self.labelled),
            rows=over(self.rows),
            weights=over(self.weights),
        )


def _over(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A value with `function` applied to all tensors in it."""
    if isinstance(value, Tensor):
        return function(value)
    return {name: _over(function, part) for name, part in value.items()} if isinstance(value, Mapping) else value


def _labelled_rows(mask: Tensor) -> Tensor | None:
    labelled = mask if mask.ndim == 1 else mask.any(dim=1)
    return None if bool(labelled.all()) else labelled.nonzero().squeeze(1)
