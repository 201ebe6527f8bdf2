"""Whether a column of images holds masks, and the task that learns them."""

from __future__ import annotations

from typing import Any

import numpy as np

from polytask.data.inputs.cells import UnreadableError, file_of
from polytask.data.pixel_cells import MapError, read_map
from polytask.data.table import Table

_LOOKED_AT = 16
_MOST_CLASSES = 64
_LEAST_ALIKE = 0.8
"""The least share of neighbours with the same number: classes have areas, photographs hardly any."""


def propose_masks(table: Table, column: str) -> tuple[dict[str, Any], str] | None:
    """A segmentation for a column whose images are masks beyond doubt; None: they may be photographs.

    Args:
        table: The table.
        column: A column of images.

    Returns:
        Type and settings of the task, and what was seen.
    """
    rows = np.unique(np.linspace(0, len(table) - 1, _LOOKED_AT).astype(np.int64))
    ids: set[int] = set()
    looked_at = 0
    for row, cell in zip(rows.tolist(), table.take(rows, [column]).column(0).to_pylist(), strict=True):
        if cell is None:
            continue
        try:
            values = read_map(*file_of(cell, table.folder_of(row, column), "mask"))
        except (MapError, UnreadableError):
            continue
        if values.shape[2] > 1 or values.dtype.kind == "f" or not _has_areas(values[:, :, 0]):
            return None
        ids |= set(np.unique(values).tolist())
        if len(ids) > _MOST_CLASSES:
            return None
        looked_at += 1
    if not looked_at or len(ids) < 2:
        return None
    component: dict[str, Any] = {"type": "segmentation", "target": column}
    comment = f"masks of {len(ids)} numbers, in {looked_at} that were looked at."
    numbers = sorted(map(int, ids))
    if numbers == [0, 255]:
        component["classes"] = {"background": 0, "object": 255}
        comment = f"masks of black and white, in {looked_at} that were looked at."
    elif numbers[-1] == 255 and len(numbers) > 2:
        component["ignore"] = [255]
        comment += " 255 mostly stands for no class: such pixels are ignored."
    return component, f"{comment} Name the classes with classes: [first, second...] or {{name: number}}."


def _has_areas(values: np.ndarray) -> bool:
    alike = [(values[1:] == values[:-1]), (values[:, 1:] == values[:, :-1])]
    total = sum(each.size for each in alike)
    return total > 0 and bool(sum(int(each.sum()) for each in alike) / total >= _LEAST_ALIKE)
