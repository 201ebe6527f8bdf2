"""Rows of data that need not fit in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.column_types import (
    SAMPLE_ROWS,
    ColumnType,
    check_names,
    check_types,
    infer_type,
    is_text,
    plain_type,
)
from polytask.data.conversion import BadValue, as_numbers, bad_type, changes_storage, convert, stored_as
from polytask.errors import UserError, closest, listing

_COPIED_BYTES = 1 << 30
"""Larger tables in memory stay in their chunks: they may be someone's memory map."""

Reopen = Callable[[], pa.Table]
LineOf = Callable[[int], int | None]


class Table:
    """Named columns and rows, memory-mapped where they come from files.

    Rows are addressed by position, 0 for the first; messages count them from 1. Columns come out with plain Arrow
    types: categories as their names, never as dictionary codes.

    Args:
        data: The rows; memory-mapped, or in memory.
        source: What messages call the table: a path as the user wrote it.
        folder: The folder that relative file paths in its columns start from.
        types: Types that the user set; the others are inferred.
        reopen: Maps the same rows again, in another process. Must be picklable. None: the rows travel by value.
        line_of: The line of the source file where a row (by position) stands, None where it cannot tell.

    Raises:
        UserError: There are no rows or columns, two columns have the same name, or a type does not fit its column.
    """

    def __init__(
        self,
        data: pa.Table,
        *,
        source: str,
        folder: Path | None = None,
        types: Mapping[str, ColumnType] | None = None,
        reopen: Reopen | None = None,
        line_of: LineOf | None = None,
    ) -> None:
        self.source = source
        self.folder = folder
        self.columns: tuple[str, ...] = tuple(data.column_names)
        self._reopen = reopen
        self._line_of = line_of
        check_names(self.columns, source)
        if data.num_rows == 0:
            raise UserError(f"{source} has no rows.")
        set_types = dict(types or {})
        check_types(set_types, self.columns, source)
        self._attach(self._typed(data, set_types) if reopen is None else data)
        self._types = {**self._infer(set_types), **set_types}

    @classmethod
    def from_arrow(
        cls,
        data: pa.Table,
        source: str = "the table",
        folder: Path | None = None,
        types: Mapping[str, ColumnType] | None = None,
    ) -> Table:
        """A table of rows in memory."""
        return cls(data, source=source, folder=folder, types=types)

    @classmethod
    def of(cls, data: Any, source: str = "the table", folder: Path | None = None) -> Table:
        """A table from what Python users hold.

        Args:
            data: A `Table` (returned as it is), a pandas DataFrame (its index is left out), an Arrow table, or a
                mapping of column names to values.
            source: What messages call it.
            folder: The folder that relative file paths in its columns start from.

        Raises:
            UserError: It is none of these, or a column mixes kinds of values.
        """
        if isinstance(data, Table):
            return data
        if isinstance(data, pa.RecordBatch):
            data = pa.Table.from_batches([data])
        if isinstance(data, pa.Table):
            return cls.from_arrow(data, source, folder)
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
        return cls.from_arrow(pa.table(arrays, names=[name for name, _ in pairs]), source, folder)

    @property
    def types(self) -> Mapping[str, ColumnType]:
        """The type of each column."""
        return MappingProxyType(self._types)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"Table({self.source!r}, {len(self)} rows, {len(self.columns)} columns)"

    def take(self, rows: np.ndarray | None, columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows, copied out, each column in one chunk where Arrow can hold it in one.

        Args:
            rows: Positions, int64, in any order, repeated or not; None means all.
            columns: The columns wanted, in this order; None means all.

        Raises:
            UserError: There is no such column.
            IndexError: There is no such row.
        """
        batches = self._view(columns)
        if rows is None:
            return self._plain(pa.Table.from_batches(batches).combine_chunks())
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(
                f"{self.source} has {len(self)} rows; positions {rows.min()} to {rows.max()} were asked for."
            )
        return self._plain(_gather(batches, self._starts, rows))

    def column(self, name: str) -> pa.ChunkedArray:
        """All values of a column, memory-mapped where the table is.

        Raises:
            UserError: There is no such column.
        """
        return self._plain(pa.Table.from_batches(self._view([name]))).column(0)

    def arrow(self, name: str) -> pa.ChunkedArray:
        """All values of a column as they are stored: categories may be codes.

        Raises:
            UserError: There is no such column.
        """
        return pa.Table.from_batches(self._view([name])).column(0)

    def numbers(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """A column as float64, NaN where it is missing.

        Args:
            name: The column.
            rows: Positions, int64; None means all.

        Raises:
            UserError: There is no such column, or a value is not a finite number; it names the row.
        """
        values = self.column(name) if rows is None else self.take(rows, [name]).column(0)

        def where(index: int) -> str:
            return f"{self.locate(index if rows is None else int(rows[index]))}, column '{name}'"

        return as_numbers(values, where)

    def batches(
        self, columns: Sequence[str] | None = None, rows: np.ndarray | None = None, size: int = 65_536
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Rows in parts, in order, so that a whole column never needs to be in memory.

        Args:
            columns: The columns wanted; None means all.
            rows: Positions, int64; None means all.
            size: The greatest number of rows of one part.

        Yields:
            The positions, int64, and their rows.
        """
        if rows is not None:
            for start in range(0, len(rows), size):
                part = np.asarray(rows[start : start + size], dtype=np.int64)
                yield part, self.take(part, columns)
            return
        for start, batch in zip(self._starts[:-1], self._view(columns), strict=True):
            for offset in range(0, batch.num_rows, size):
                part = batch.slice(offset, size)
                first = int(start) + offset
                yield np.arange(first, first + part.num_rows), self._plain(pa.Table.from_batches([part]))

    def locate(self, row: int) -> str:
        """Where a row stands, for messages: `"reviews.csv, row 17 (line 18)"`.

        Args:
            row: Its position, 0 for the first.
        """
        line = None if self._line_of is None else self._line_of(row)
        return f"{self.source}, row {row + 1}" + ("" if line is None else f" (line {line})")

    def folder_of(self, row: int, column: str) -> Path | None:
        """The folder that a relative path in a cell starts from.

        Args:
            row: The row's position.
            column: The column.
        """
        return self.folder

    def renamed(self, names: Mapping[str, str]) -> Table:
        """The same rows with other column names.

        Args:
            names: New names by old ones; columns that are not in it keep theirs.
        """
        return self.arranged([(names.get(name, name), name) for name in self.columns])

    def arranged(
        self,
        columns: Sequence[tuple[str, str]],
        types: Mapping[str, ColumnType] | None = None,
        storage: Mapping[str, pa.DataType] | None = None,
    ) -> Table:
        """The same rows with other columns.

        Args:
            columns: The columns in order, each with the name of that one of this table that it is made of.
            types: Other types of columns, by their new names.
            storage: The Arrow types that columns are to be stored as, by their new names.
        """
        own = self._reopen or partial(pa.Table.from_batches, self._batches)
        data = partial(_arrange, own, tuple(columns), dict(storage or {}))
        return Table(
            data(),
            source=self.source,
            folder=self.folder,
            types={**{new: self._types[old] for new, old in columns}, **(types or {})},
            reopen=data,
            line_of=self._line_of,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Tells whether these are still the same data: from names, types, row count and a sample of the values."""
        rows = np.unique(np.linspace(0, len(self) - 1, 64).astype(np.int64))
        digest = hashlib.sha256(repr((len(self), [(name, self._types[name].value) for name in self.columns])).encode())
        for column in self.take(rows).columns:
            digest.update(repr(column.to_pylist()).encode())
        return digest.hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        batches = state.pop("_batches")
        for derived in ("_views", "_starts", "_coded"):
            del state[derived]
        if self._reopen is None:
            state["data"] = pa.Table.from_batches(batches)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        data = state.pop("data", None)
        self.__dict__.update(state)
        self._attach(data if self._reopen is None else self._reopen())

    def _attach(self, data: pa.Table) -> None:
        self._batches: list[pa.RecordBatch] = [batch for batch in data.to_batches() if batch.num_rows]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)], dtype=np.int64)
        self._coded = {f.name: plain_type(f.type) for f in data.schema if plain_type(f.type) != f.type}
        self._views: dict[tuple[str, ...], list[pa.RecordBatch]] = {}

    def _view(self, columns: Sequence[str] | None) -> list[pa.RecordBatch]:
        if columns is None:
            return self._batches
        key = tuple(columns)
        if key not in self._views:
            for name in key:
                if name not in self.columns:
                    raise UserError(
                        f"{self.source} has no column '{name}'.{closest(name, self.columns)} "
                        f"Its columns: {listing(self.columns)}."
                    )
            self._views[key] = [batch.select(list(key)) for batch in self._batches]
        return self._views[key]

    def _plain(self, table: pa.Table) -> pa.Table:
        if self._coded:
            for position, name in enumerate(table.column_names):
                if name in self._coded:
                    table = table.set_column(position, name, pc.cast(table.column(position), self._coded[name]))
        return table

    def _typed(self, data: pa.Table, types: Mapping[str, ColumnType]) -> pa.Table:
        """`data` with columns changed to the types that the user set, in one chunk where that costs little."""
        if data.nbytes <= _COPIED_BYTES:
            data = data.combine_chunks()
        for name, wanted in types.items():
            position = data.column_names.index(name)
            if changes_storage(data.schema.field(position).type, wanted):
                try:
                    data = data.set_column(position, name, convert(data.column(position), wanted))
                except BadValue as error:
                    raise bad_type(self.locate(error.index), name, wanted, error) from error
        return data

    def _infer(self, known: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
        rows = np.linspace(0, len(self) - 1, min(len(self), SAMPLE_ROWS)).astype(np.int64)
        types = {}
        for field in self._batches[0].schema:
            if field.name not in known:
                storage = plain_type(field.type)
                # Only strings have to be looked at; a sample of images would be costly.
                sample = self.take(rows, [field.name]).column(0) if is_text(storage) else pa.chunked_array([], storage)
                types[field.name] = infer_type(sample, field)
        self._views.clear()
        return types


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


def _arrange(reopen: Reopen, columns: Sequence[tuple[str, str]], storage: Mapping[str, pa.DataType]) -> pa.Table:
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


def _array(values: Any, name: str, source: str) -> pa.Array | pa.ChunkedArray:
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"{source}, column '{name}': its values are not of one kind ({error}).") from error
