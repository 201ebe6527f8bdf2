"""Rows of Arrow tables by their positions: mapped where they are, copied out where they are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.column_types import plain_type
from polytask.data.conversion import stored_as

Reopen = Callable[[], pa.Table]


class StoredRows:
    """The record batches of an Arrow table.

    Args:
        data: The rows; memory-mapped, or in memory.

    Attributes:
        schema: The columns as they are stored: categories may be codes.
    """

    def __init__(self, data: pa.Table) -> None:
        self.schema: pa.Schema = data.schema
        self._batches: list[pa.RecordBatch] = [batch for batch in data.to_batches() if batch.num_rows]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)], dtype=np.int64)
        self._coded = {f.name: plain_type(f.type) for f in data.schema if plain_type(f.type) != f.type}
        self._views: dict[tuple[str, ...], list[pa.RecordBatch]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> tuple[type[StoredRows], tuple[pa.Table]]:
        return StoredRows, (self.whole(),)

    def whole(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows as they are stored, not copied.

        Args:
            columns: The columns wanted, in this order; None means all.
        """
        return pa.Table.from_batches(self._view(columns))

    def plain(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows with plain types, copied only where they are codes."""
        return self._plain(self.whole(columns))

    def take(self, rows: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows (int64 positions that exist), copied out with plain types."""
        return self._plain(_gather(self._view(columns), self._starts, rows))

    def parts(self, columns: Sequence[str] | None, size: int) -> Iterator[tuple[int, pa.Table]]:
        """All rows in order with plain types, at most `size` at a time, each with the position of its first row."""
        for start, batch in zip(self._starts[:-1], self._view(columns), strict=True):
            for offset in range(0, batch.num_rows, size):
                yield int(start) + offset, self._plain(pa.Table.from_batches([batch.slice(offset, size)]))

    def forget_selections(self) -> None:
        """Give back what is kept to find the same columns faster."""
        self._views.clear()

    def _view(self, columns: Sequence[str] | None) -> list[pa.RecordBatch]:
        if columns is None:
            return self._batches
        key = tuple(columns)
        if key not in self._views:
            self._views[key] = [batch.select(list(key)) for batch in self._batches]
        return self._views[key]

    def _plain(self, table: pa.Table) -> pa.Table:
        coded = [n for n, name in enumerate(table.column_names) if name in self._coded] if self._coded else []
        if not coded:
            return table
        fields, values = list(table.schema), list(table.columns)
        for number in coded:
            name = fields[number].name
            values[number] = pc.cast(values[number], self._coded[name])
            fields[number] = pa.field(name, self._coded[name])
        return pa.Table.from_arrays(values, schema=pa.schema(fields))


def arranged(reopen: Reopen, columns: Sequence[tuple[str, str]], storage: Mapping[str, pa.DataType]) -> pa.Table:
    """Other columns of the same rows.

    Args:
        reopen: Gives the rows.
        columns: The columns in order, each with the name of that one of the rows' that it is made of.
        storage: The Arrow types that columns are to be stored as, by their new names.
    """
    data = reopen()
    fields, values = [], []
    for new, old in columns:
        field, column = data.schema.field(old).with_name(new), data.column(old)
        wanted = storage.get(new, field.type)
        if wanted != field.type:
            field, column = field.with_type(wanted), stored_as(column, wanted)
        fields.append(field)
        values.append(column)
    return pa.Table.from_arrays(values, schema=pa.schema(fields))


def _gather(batches: list[pa.RecordBatch], starts: np.ndarray, rows: np.ndarray) -> pa.Table:
    """Rows that are spread over record batches, in the order of `rows`."""
    if len(batches) == 1:
        return pa.Table.from_batches([batches[0].take(pa.array(rows))])
    owner = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    cuts = np.flatnonzero(np.diff(owner)) + 1
    parts = [
        batches[owner[positions[0]]].take(pa.array(rows[order[positions]] - starts[owner[positions[0]]]))
        for positions in np.split(np.arange(len(rows)), cuts)
        if len(positions)
    ]
    table = pa.Table.from_batches(parts, batches[0].schema).combine_chunks()
    if np.array_equal(order, np.arange(len(rows))):
        return table
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(rows))
    return table.take(pa.array(inverse))
