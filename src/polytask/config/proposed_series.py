"""What in a table could be read as time series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from polytask.config.proposed_task import sample
from polytask.data.column_types import ColumnType
from polytask.data.inputs.cells import UnreadableError
from polytask.data.inputs.series import series_in_cells
from polytask.data.table import Table

_LOOKED_AT = 200
_SHORTEST = 5


class ProposedSeries(NamedTuple):
    """A sequence input.

    Attributes:
        component: Its type and settings.
        encoder: The encoder's.
        comments: What was seen.
    """

    component: dict[str, Any]
    encoder: dict[str, Any]
    comments: list[str]


def series_columns(table: Table, free: Sequence[str]) -> list[str]:
    """The columns of lists or of texts of several numbers."""
    return [column for column in free if _mean_steps(table, column) >= _SHORTEST]


def propose_series(table: Table, columns: Sequence[str]) -> ProposedSeries:
    """The first of some columns, and those whose series are as long as its own, as channels."""
    lengths = {}
    for column in columns:
        found = series_in_cells([sample(table, column).slice(0, _LOOKED_AT)], [column], None)
        lengths[column] = found.lengths
    first = lengths[columns[0]]
    same = [column for column in columns if np.array_equal(lengths[column], first)]
    component: dict[str, Any] = {"type": "sequence", "columns": same[0] if len(same) == 1 else same}
    comments = [f"Series of numbers, {first[first > 0].min()} to {first.max()} steps in the rows looked at."]
    if not first.all() or any(table.column(column).null_count for column in same):
        component["on_error"] = "skip"
        comments.append("Some rows have no series that can be read; they are skipped, and counted.")
    # So many blocks see the whole of the longest series.
    depth = int(min(8, max(2, math.ceil(math.log2(first.max() / 8 + 1)))))
    return ProposedSeries(component, {"type": "tcn", "dim": 64, "depth": depth}, comments)


def _mean_steps(table: Table, column: str) -> float:
    """How many numbers a row has in a column; 0 where rows do not have any, or have something else."""
    if table.types[column] not in (ColumnType.LIST, ColumnType.TEXT):
        return 0.0
    values = sample(table, column).drop_null().slice(0, _LOOKED_AT)
    if not len(values):
        return 0.0
    try:
        found = series_in_cells([values], [column], None)
    except UnreadableError:
        return 0.0
    return float(found.lengths.mean()) if len(found.problems) <= 0.1 * len(values) else 0.0
