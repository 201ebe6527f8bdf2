"""Several columns of numbers as one array."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from polytask.data.conversion import as_numbers
from polytask.data.table import Table


def number_matrix(part: pa.Table, columns: Sequence[str], rows: np.ndarray, table: Table) -> np.ndarray:
    """The columns side by side.

    Args:
        part: Some rows of `table`.
        columns: The columns wanted.
        rows: int64 `[B]`: the rows' positions in `table`.
        table: Where the rows come from, for messages.

    Returns:
        float64 `[B, columns]`, NaN where there is no value.

    Raises:
        UserError: A value is not a number, or is infinite.
    """
    numbers = np.empty((len(rows), len(columns)))

    def where(column: str) -> Callable[[int], str]:
        return lambda index: f"{table.locate(int(rows[index]))}, column '{column}'"

    for position, column in enumerate(columns):
        numbers[:, position] = as_numbers(part.column(column), where(column))
    return numbers
