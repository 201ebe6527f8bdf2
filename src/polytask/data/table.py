"""Rows of data that need not fit in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from polytask.data.column_types import (
    SAMPLE_ROWS,
    ColumnType,
    check_names,
    check_types,
    infer_type,
    is_image,
    is_text,
    plain_type,
)
from polytask.data.conversion import as_numbers, convert_columns
from polytask.data.python_values import as_arrow
from polytask.data.stored_rows import Reopen, StoredRows, arranged
from polytask.errors import UserError, closest, listing

_FILES_LOOKED_AT = 4

_COPIED_BYTES = 1 << 30
"""Larger tables in memory stay in their chunks: they may be someone's memory map."""

LineOf = Callable[[int], int | None]


class Absence(NamedTuple):
    """Why a cell has no value, and what can be done.

    Attributes:
        reason: Ends a sentence that says that there is none: nothing where the cell itself is empty.
        ways: Two ways to mend it, as sentences without their ends.
    """

    reason: str
    ways: tuple[str, str]


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
        if reopen is None:
            if data.nbytes <= _COPIED_BYTES:
                data = data.combine_chunks()
            data = convert_columns(data, set_types, self.locate)
        self._rows = StoredRows(data)
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
        return cls.from_arrow(as_arrow(data, source), source, folder)

    @property
    def types(self) -> Mapping[str, ColumnType]:
        """The type of each column."""
        return MappingProxyType(self._types)

    def has(self, column: str) -> bool:
        """Whether there is a column of this name; unlike a look into `columns`, as fast for thousands of them."""
        return column in self._types

    def __len__(self) -> int:
        return len(self._rows)

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
        self._require(columns)
        if rows is None:
            return self._rows.plain(columns).combine_chunks()
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(
                f"{self.source} has {len(self)} rows; positions {rows.min()} to {rows.max()} were asked for."
            )
        return self._rows.take(rows, columns)

    def column(self, name: str) -> pa.ChunkedArray:
        """All values of a column, memory-mapped where the table is.

        Raises:
            UserError: There is no such column.
        """
        self._require([name])
        return self._rows.plain([name]).column(0)

    def arrow(self, name: str) -> pa.ChunkedArray:
        """All values of a column as they are stored: categories may be codes.

        Raises:
            UserError: There is no such column.
        """
        self._require([name])
        return self._rows.whole([name]).column(0)

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
        self._require(columns)
        for first, found in self._rows.parts(columns, size):
            yield np.arange(first, first + found.num_rows), found

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

    def absence(self, row: int, column: str) -> Absence:
        """Why a cell without a value has none, for messages.

        Args:
            row: The row's position.
            column: The column.
        """
        return Absence("", ("Fill the cell", "remove the row"))

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
        data = partial(arranged, self._reopen or self._rows.whole, tuple(columns), dict(storage or {}))
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
        if self._reopen is not None:
            del state["_rows"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._reopen is not None:
            self._rows = StoredRows(self._reopen())

    def _require(self, columns: Sequence[str] | None) -> None:
        absent = next((name for name in columns or () if not self.has(name)), None)
        if absent is not None:
            raise UserError(
                f"{self.source} has no column '{absent}'.{closest(absent, self.columns)} "
                f"Its columns: {listing(self.columns)}."
            )

    def _infer(self, known: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
        rows = np.linspace(0, len(self) - 1, min(len(self), SAMPLE_ROWS)).astype(np.int64)
        types = {}
        for field in self._rows.schema:
            if field.name not in known:
                storage = plain_type(field.type)
                sample = pa.chunked_array([], storage)
                if is_text(storage) or is_image(storage):  # Of files, a few have to be looked at: more would be costly.
                    looked_at = rows if is_text(storage) else rows[:_FILES_LOOKED_AT]
                    sample = self._rows.take(looked_at, [field.name]).column(0)
                types[field.name] = infer_type(sample, field)
        self._rows.forget_selections()
        return types
