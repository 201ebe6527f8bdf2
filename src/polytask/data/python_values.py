"""What Python users hold as an Arrow table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from polytask.errors import UserError


def as_arrow(data: Any, source: str) -> pa.Table:
    """The rows of a pandas DataFrame (its index is left out), an Arrow table, or a mapping of names to values.

    Args:
        data: Any of these.
        source: What messages call it.

    Raises:
        UserError: It is none of these, a column mixes kinds of values, or they have different numbers of rows.
    """
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if isinstance(data, pa.Table):
        return data
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        pairs = [(str(name), data.iloc[:, position]) for position, name in enumerate(data.columns)]
    elif isinstance(data, Mapping):
        pairs = [(str(name), values) for name, values in data.items()]
    else:
        raise UserError(
            f"{source} is a {type(data).__name__}. Give a pandas DataFrame, an Arrow table, or a mapping of column "
            "names to values; polytask.data.read_table reads files."
        )
    arrays = [_array(values, name, source) for name, values in pairs]
    if len({len(array) for array in arrays}) > 1:
        lengths = ", ".join(f"'{name}' {len(array)}" for (name, _), array in zip(pairs, arrays, strict=True))
        raise UserError(f"The columns of {source} have different numbers of rows: {lengths}.")
    return pa.table(arrays, names=[name for name, _ in pairs])


def _array(values: Any, name: str, source: str) -> pa.Array | pa.ChunkedArray:
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"{source}, column '{name}': its values are not of one kind ({error}).") from error
