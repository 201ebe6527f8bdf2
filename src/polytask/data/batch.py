"""The rows of one step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polytask.row_values import RowValues, map_values, select_values

Target = Tensor | RowValues


@dataclass(frozen=True)
class Partners:
    """What rows have from other rows that were mixed into them, one each; see `polytask.data.mixing`.

    Attributes:
        targets: As in `Batch`, for each task of the batch.
        masks: As in `Batch`.
        weights: As in `Batch`, for each task.
    """

    targets: Mapping[str, Target]
    masks: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]

    def map(self, function: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Partners:
        """The same with `function` applied to targets, masks and weights."""
        return Partners(function(self.targets), function(self.masks), function(self.weights))


@dataclass(frozen=True)
class Batch:
    """B rows, encoded.

    Attributes:
        inputs: What each encoder reads, by input name: a tensor, graphs, or such by name, with B rows each.
        targets: Each task's target: int64 `[B]` (category), float32 `[B, L]` of 0 and 1 (labels), float32 `[B, M]` in
            the user's units (numbers), or what else the task's kind of target is (see `polytask.labels.TargetSpec`).
            What is missing holds 0.
        masks: Where `targets` has a label: bool `[B, ...]`, of the shape of the task's `entries`.
        labelled: For each task, the rows with at least one label, int64; None where all rows have one. Known while
            the batch is on the CPU, so that a step never waits for the device to learn which tasks are in it.
        rows: The rows' positions in their table, int64 `[B]`.
        weights: What each row counts in a task's mean loss, float32 `[B]`; no entry: all the same.
        partners: The second labels of mixed rows, where `inputs` are the mixed ones; the weights here and there then
            hold the two shares. None: the rows are not mixed.
        views: For each task that needs no labels, what it reads in place of `inputs`: one or several versions of the
            rows that are labelled for it, each by input name. They are not mixed.
    """

    inputs: Mapping[str, Any]
    targets: Mapping[str, Target]
    masks: Mapping[str, Tensor]
    labelled: Mapping[str, Tensor | None]
    rows: Tensor
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    partners: Partners | None = None
    views: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    @staticmethod
    def of(
        inputs: Mapping[str, Any],
        targets: Mapping[str, Target],
        masks: Mapping[str, Tensor],
        rows: Tensor,
        weights: Mapping[str, Tensor] | None = None,
        *,
        partners: Partners | None = None,
        views: Mapping[str, tuple[Mapping[str, Any], ...]] | None = None,
    ) -> Batch:
        """A batch with `labelled` derived from the masks."""
        labelled = {}
        for task, mask in masks.items():
            known = labelled_rows(mask)
            mixed = partners is not None and task in partners.masks
            labelled[task] = _numbers(
                known | labelled_rows(partners.masks[task]) if partners is not None and mixed else known
            )
        return Batch(inputs, targets, masks, labelled, rows, weights or {}, partners, views or {})

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
            partners=None if self.partners is None else self.partners.map(others),
            views=others(self.views),
        )

    def only(self, tasks: Collection[str]) -> Batch:
        """The rows that are labelled for any of some tasks, with what is known of these tasks alone.

        On a device, it is waited for where several tasks have labels in some rows each, and else not.
        """
        kept = self.without([task for task in self.labelled if task not in tasks])
        known = [rows for rows in kept.labelled.values() if rows is not None]
        if not known or len(known) < len(kept.labelled):
            return kept
        rows = known[0] if len(known) == 1 else torch.unique(torch.cat(known))
        if len(rows) == len(self):
            return kept
        labelled = {
            task: None if each is None or len(each) == len(rows) else torch.searchsorted(rows, each)
            for task, each in kept.labelled.items()
        }
        return replace(kept._map(partial(_select, rows), only_rows=True), labelled=labelled)

    def paired(self, inputs: Mapping[str, Any], partners: Tensor, share: float) -> Batch:
        """Mixed rows: each with another row's labels beside its own; tasks that read views of their own stay apart.

        Args:
            inputs: The mixed inputs.
            partners: int64 `[B]`: for each row, the row of this batch that is mixed into it; each is one's partner.
            share: What a row keeps of what its own label counts; its partner's counts the rest, up to 1.
        """
        partners = partners.to(self.rows.device)
        plain = self.without(self.views)
        weights = {}
        for task in plain.targets:
            known = self.weights.get(task)
            weights[task] = torch.ones(len(self), device=self.rows.device) if known is None else known
        labelled: dict[str, Tensor | None] = dict(self.labelled)
        for task, rows in plain.labelled.items():
            labelled[task] = None
            if rows is not None:
                mask = torch.zeros(len(self), dtype=torch.bool, device=rows.device).index_fill(0, rows, True)
                labelled[task] = _numbers(mask | mask[partners])
        second = Partners(plain.targets, plain.masks, {task: weight * (1 - share) for task, weight in weights.items()})
        return replace(
            self,
            inputs=inputs,
            labelled=labelled,
            weights={**self.weights, **{task: weight * share for task, weight in weights.items()}},
            partners=second.map(partial(_over, partial(_select, partners))),
        )

    def part(self, rows: Tensor) -> Batch:
        """Some of the rows, by their numbers in this batch; on a device, it is waited for."""
        smaller = self._map(partial(_select, rows), only_rows=True)
        known = smaller.targets, smaller.masks, smaller.rows, smaller.weights
        return Batch.of(smaller.inputs, *known, partners=smaller.partners, views=smaller.views)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self._map(_each(lambda tensor: tensor.to(device, non_blocking=non_blocking)))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by the DataLoader)."""
        return self._map(_each(lambda tensor: tensor.pin_memory()))

    def _map(self, function: Callable[[Any], Any], *, only_rows: bool = False) -> Batch:
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
            partners=None if self.partners is None else self.partners.map(over),
            views=over(self.views),
        )


def _select(rows: Tensor, value: Any) -> Any:
    """Some rows of a tensor, or of row values."""
    return select_values(value, rows)


def _each(function: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """The function for a tensor, or for row values: for each of their tensors."""
    return lambda value: map_values(value, function)


def _over(function: Callable[[Any], Any], value: Any) -> Any:
    """A value with `function` applied to all tensors and row values in it."""
    if isinstance(value, Tensor | RowValues):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_over(function, part) for part in value)
    return {name: _over(function, part) for name, part in value.items()} if isinstance(value, Mapping) else value


def labelled_rows(mask: Tensor) -> Tensor:
    """The rows with at least one label, bool `[B]`, of a mask `[B, ...]`."""
    return mask if mask.ndim == 1 else mask.flatten(1).any(dim=1)


def _numbers(labelled: Tensor) -> Tensor | None:
    """The numbers of some rows, given as bool `[B]`; None: all."""
    return None if bool(labelled.all()) else labelled.nonzero().squeeze(1)
