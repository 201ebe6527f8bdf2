"""A task's labels in a batch, for the rows that its outputs are computed for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from polytask.data.batch import Batch
from polytask.row_values import select_values

Labels = tuple[Any, Tensor | None, Tensor | None]
"""A task's target, mask and weights."""


def labels_of(batch: Batch, task: str) -> list[Labels]:
    """A task's labels in the rows that are labelled for it; in mixed rows, their own and their partners'."""
    rows, mixed = batch.labelled[task], batch.partners
    if mixed is not None and task in mixed.targets:
        # Either of two mixed rows may lack a label.
        return [_rows(each.targets[task], each.masks[task], each.weights[task], rows) for each in (batch, mixed)]
    mask = mask_of(batch, task)
    if rows is not None and mask is not None and _single(mask):
        mask = None  # a row with a label has all of them where there is but one
    return [_rows(batch.targets[task], mask, batch.weights.get(task), rows)]


def _rows(target: Any, mask: Tensor | None, weights: Tensor | None, rows: Tensor | None) -> Labels:
    if rows is None:
        return target, mask, weights
    return select_values(target, rows), None if mask is None else mask[rows], None if weights is None else weights[rows]


def mask_of(batch: Batch, task: str) -> Tensor | None:
    """Where a task's target has a label; None: everywhere."""
    mask = batch.masks[task]
    return None if batch.labelled[task] is None and _single(mask) else mask


def _single(mask: Tensor) -> bool:
    """Whether there is one entry a row."""
    return mask.ndim == 1 or mask[0].numel() == 1
