"""Tables whose rows are the same things: one row for each value of a key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.column_types import ColumnType, plain_type
from polytask.data.keys import codes_of
from polytask.data.table import Absence, Table
from polytask.errors import UserError, listing

PIECE = 65_536
"""Rows that are put together at a time."""


class JoinedTable(Table):
    """The outer join of several tables: a row for each key that any of them has, in the order of first appearance.

    A column that several tables have is taken from the first that has a value in the row. The columns of the first
    table stay memory-mapped; of the others, what is there is in memory.

    Args:
        tables: The tables by the names of their sources; columns of the same name have the same type.
        key: The column with the keys: in every table, each key once.

    Attributes:
        tables: As given.
        key: As given.
        positions: For each table, int64 `[rows]`: where the row stands in it, -1 where it does not have it.

    Raises:
        UserError: Two tables have different values for the same row and column.
    """

    def __init__(self, tables: Mapping[str, Table], key: str) -> None:
        self.tables = dict(tables)
        self.key = key
        self.positions = _positions([table.column(key) for table in tables.values()])
        members = list(tables.values())
        self._lacking: dict[str, int] = {}
        columns = list(dict.fromkeys(column for table in members for column in table.columns))
        reopen = partial(_join, members, self.positions, key, columns)
        types: dict[str, ColumnType] = {}
        for table in reversed(members):
            types |= table.types
        super().__init__(
            reopen(names=list(tables)),
            source=" and ".join(table.source for table in members),
            types={column: types[column] for column in columns},
            reopen=reopen,
        )

    def locate(self, row: int) -> str:
        """See `Table.locate`: the row's place in each table that has it."""
        found = zip(self.tables.values(), self.positions, strict=True)
        return " with ".join(table.locate(int(rows[row])) for table, rows in found if rows[row] >= 0)

    def folder_of(self, row: int, column: str) -> Path | None:
        """See `Table.folder_of`: that of the table whose value the row has."""
        found = zip(self.tables.values(), self.positions, strict=True)
        holders = [(table, rows[row : row + 1]) for table, rows in found if rows[row] >= 0 and table.has(column)]
        for table, place in holders:
            if len(holders) == 1 or table.take(place, [column]).column(0).null_count == 0:
                return table.folder_of(int(place[0]), column)
        return None

    def absence(self, row: int, column: str) -> Absence:
        """See `Table.absence`: which of the tables lack the row."""
        members = dict(zip(self.tables, self.positions, strict=True))
        holders = [name for name in members if self.tables[name].has(column)]
        if any(members[name][row] >= 0 for name in holders):
            return super().absence(row, column)
        others = [name for name in members if members[name][row] >= 0]
        if column not in self._lacking:
            self._lacking[column] = int(np.logical_and.reduce([members[name] < 0 for name in holders]).sum())
        more = self._lacking[column] - 1
        have = f"{listing(holders)}, which {'has' if len(holders) == 1 else 'have'} the column '{column}'"
        does = "does" if len(holders) == 1 else "do"
        key = self.take(np.array([row]), [self.key]).column(0)[0].as_py()
        reason = (
            f": the row ({self.key} {key!r}) is in the source {listing(others)} only; {have}, {does} not have it"
            + f". The same is true of {more:,} more row{'s' * (more > 1)}" * (more > 0)
        )
        return Absence(reason, (f"Add it to {listing(holders)}", f"take it out of {listing(others)}"))

    def sources_of(self, rows: np.ndarray) -> np.ndarray:
        """Which tables have each of some rows, bool `[B, tables]`."""
        return np.stack([positions[rows] >= 0 for positions in self.positions], axis=1)

    @cached_property
    def fingerprint(self) -> str:
        """See `Table.fingerprint`."""
        parts = [self.key, *(f"{name} {table.fingerprint}" for name, table in self.tables.items())]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _positions(keys: Sequence[pa.ChunkedArray]) -> list[np.ndarray]:
    codes = codes_of(keys)
    rows = max(int(each.max()) for each in codes) + 1
    positions = [np.full(rows, -1, dtype=np.int64) for _ in codes]
    for place, each in zip(positions, codes, strict=True):
        place[each] = np.arange(len(each))
    return positions


def _join(
    tables: Sequence[Table],
    positions: Sequence[np.ndarray],
    key: str,
    columns: Sequence[str],
    names: Sequence[str] | None = None,
) -> pa.Table:
    """The joined rows.

    Args:
        tables: The tables.
        positions: Where each row stands in each of them.
        key: The key.
        columns: The columns of the result.
        names: The names of the tables, to compare the values that several have; None: they are the same.
    """
    found = [_placed(table, rows) for table, rows in zip(tables, positions, strict=True)]
    joined: dict[str, pa.ChunkedArray] = {}
    for column in columns:
        holders = [number for number, placed in enumerate(found) if column in placed]
        values = found[holders[0]][column]
        for number in holders[1:]:
            here, there = _comparable(values), _comparable(found[number][column])
            if names is not None:
                row = _first_difference(here, there)
                if row is not None:
                    first = next(n for n in holders if found[n][column][row].is_valid)
                    raise _difference(
                        column,
                        f"{key} {joined[key][row].as_py()!r}" if key in joined else f"row {row + 1}",
                        (names[first], here[row], tables[first].locate(int(positions[first][row]))),
                        (names[number], there[row], tables[number].locate(int(positions[number][row]))),
                    )
            values = pc.coalesce(here, there)
        joined[column] = values
    return pa.table(joined)


def _placed(table: Table, positions: np.ndarray) -> dict[str, pa.ChunkedArray]:
    """The columns of a table at the joined rows, null where it does not have the row."""
    if np.array_equal(positions[: len(table)], np.arange(len(table))):
        more = len(positions) - len(table)
        stored = {name: table.arrow(name) for name in table.columns}
        return {name: pa.chunked_array([*v.chunks, *nulls(more, v.type)], v.type) for name, v in stored.items()}
    parts = []
    for start in range(0, len(positions), PIECE):
        piece = positions[start : start + PIECE]
        known = piece >= 0
        places = pa.array(np.cumsum(known) - 1, mask=~known)
        parts.append(table.take(piece[known]).take(places))
    whole = pa.concat_tables(parts)
    return dict(zip(whole.column_names, whole.columns, strict=True))


def nulls(count: int, storage: pa.DataType) -> list[pa.Array]:
    """`count` missing values, in chunks that share their memory."""
    chunk = pa.nulls(min(count, PIECE), storage)
    return [chunk.slice(0, min(PIECE, count - start)) for start in range(0, count, PIECE)]


def _comparable(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values of a plain type, with null for what is not a number."""
    plain = plain_type(values.type)
    if plain != values.type:
        values = pc.cast(values, plain)
    return pc.if_else(pc.is_nan(values), pa.scalar(None, plain), values) if pa.types.is_floating(plain) else values


def _first_difference(here: pa.ChunkedArray, there: pa.ChunkedArray) -> int | None:
    """The first row in which both have a value, and not the same."""
    if pa.types.is_nested(here.type):
        for start in range(0, len(here), PIECE):
            pairs = zip(here.slice(start, PIECE).to_pylist(), there.slice(start, PIECE).to_pylist(), strict=True)
            for row, (one, other) in enumerate(pairs, start):
                if one is not None and other is not None and one != other:
                    return row
        return None
    row = int(pc.index(pc.not_equal(here, there), True).as_py())
    return None if row < 0 else row


def _difference(
    column: str, where: str, here: tuple[str, pa.Scalar, str], there: tuple[str, pa.Scalar, str]
) -> UserError:
    shown = [f"{_text(value)} in the source '{name}' ({place})" for name, value, place in (here, there)]
    return UserError(
        f"The joined sources disagree: for {where}, the column '{column}' is {shown[0]} but {shown[1]}. Mend one of "
        f"them, or give the column another name in one of the sources: `rename: {{'{column}': another name}}`."
    )


def _text(value: pa.Scalar) -> str:
    text = repr(value.as_py())
    return text if len(text) <= 60 else f"{text[:57]}..."
