"""Several data sets as one table, with holes where a source does not have a column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from polytask.data.column_types import ColumnType
from polytask.data.joined import JoinedTable, nulls
from polytask.data.keys import check_key_columns, check_keys
from polytask.data.source import Source, groups_of
from polytask.data.table import Absence, Table
from polytask.data.united_columns import unite_columns
from polytask.errors import UserError, closest, listing
from polytask.labels import TargetSpec


@dataclass(frozen=True)
class Block:
    """Rows of the combined table that come from one table.

    Attributes:
        part: `train`, `valid` or `test`: which of its sources' tables it is.
        sources: The names of the sources: one, or those that were joined.
        table: The table.
        start: The position of its first row in the combined table.
    """

    part: str
    sources: tuple[str, ...]
    table: Table
    start: int

    @property
    def rows(self) -> np.ndarray:
        """The positions of its rows in the combined table, int64."""
        return np.arange(self.start, self.start + len(self.table))


class CombinedTable(Table):
    """The rows of several tables, one table's after the other's.

    Nothing is copied: columns stay memory-mapped where the tables are. Where a table does not have a column, its
    values are missing.

    Args:
        names: The names of the sources, in order.
        blocks: The tables, in the order of their rows; columns of the same name have the same type.
        targets: The columns that each task's target reads.

    Attributes:
        names: As given.
        blocks: As given.
        targets: As given.
    """

    def __init__(self, names: Sequence[str], blocks: Sequence[Block], targets: Mapping[str, tuple[str, ...]]) -> None:
        self.names = tuple(names)
        self.blocks = tuple(blocks)
        self.targets = dict(targets)
        tables = [block.table for block in blocks]
        self._first_rows = np.array([block.start for block in blocks], dtype=np.int64)
        types: dict[str, ColumnType] = {}
        for table in reversed(tables):
            types |= table.types
        columns = list(dict.fromkeys(column for table in tables for column in table.columns))
        reopen = partial(_concatenated, tables, columns)
        super().__init__(
            reopen(),
            source=f"the table of the sources {listing(names)}" if len(names) > 1 else tables[0].source,
            types={column: types[column] for column in columns},
            reopen=reopen,
        )

    def locate(self, row: int) -> str:
        """See `Table.locate`: the row's place in its source's own file."""
        block = self._block(row)
        return block.table.locate(row - block.start)

    def folder_of(self, row: int, column: str) -> Path | None:
        """See `Table.folder_of`: that of the row's source."""
        block = self._block(row)
        return block.table.folder_of(row - block.start, column) if block.table.has(column) else None

    def absence(self, row: int, column: str) -> Absence:
        """See `Table.absence`: what the row's source lacks."""
        block = self._block(row)
        if block.table.has(column):
            return block.table.absence(row - block.start, column)
        lacks = f": {block.table.source}, of the source {listing(block.sources)}, has no column '{column}'"
        return Absence(lacks, ("Give it one, or its column of another name this name with `rename`", "leave it out"))

    def sources_of(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Which sources each of some rows comes from, bool `[B, sources]`.

        Args:
            rows: Positions, int64; None means all.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        found = np.zeros((len(rows), len(self.names)), dtype=bool)
        owners = np.searchsorted(self._first_rows, rows, side="right") - 1
        for number in np.unique(owners):
            block, here = self.blocks[number], np.flatnonzero(owners == number)
            places = [self.names.index(name) for name in block.sources]
            if isinstance(block.table, JoinedTable):
                found[here[:, None], places] = block.table.sources_of(rows[here] - block.start)
            else:
                found[here, places[0]] = True
        return found

    @cached_property
    def columns_of(self) -> Mapping[str, frozenset[str]]:
        """The columns that each source has."""
        found: dict[str, set[str]] = {name: set() for name in self.names}
        for block in self.blocks:
            tables = block.table.tables if isinstance(block.table, JoinedTable) else {block.sources[0]: block.table}
            for name, table in tables.items():
                found[name].update(table.columns)
        return {name: frozenset(columns) for name, columns in found.items()}

    @cached_property
    def fingerprint(self) -> str:
        """See `Table.fingerprint`: that of every table."""
        parts = [(block.part, block.sources, block.table.fingerprint) for block in self.blocks]
        return hashlib.sha256(repr((self.columns, parts)).encode()).hexdigest()[:16]

    def _block(self, row: int) -> Block:
        return self.blocks[int(np.searchsorted(self._first_rows, row, side="right")) - 1]


def combine(sources: Sequence[Source], targets: Mapping[str, TargetSpec]) -> CombinedTable:
    """One table of all sources.

    First come the rows of the tables for training, in the order of the sources, then those for validation, then those
    for testing. The sources that have a key are joined on it; their rows stand where the first of them would.

    Args:
        sources: The sources.
        targets: How each task's target is to be read.

    Raises:
        UserError: Columns or keys do not go together, or keys for training are in validation or test tables as well.
    """
    check_key_columns(sources)
    united = unite_columns(sources, targets)
    groups = groups_of(united.sources)
    for group in groups:
        if group[0].key is not None:
            check_keys(group)
    return CombinedTable([source.name for source in sources], list(_blocks(groups)), united.targets)


def columns_to_split_by(sources: Sequence[Source], columns: Sequence[str]) -> Table:
    """What the rows of joined sources are split by: some of the columns, as the sources call them, and the key.

    The rows are those of the joined table, in its order. But the columns are the sources' own, so that tasks change
    nothing: a target of one source may have another name in the joined table, or not be in it.

    Args:
        sources: Sources with a key.
        columns: The columns; the key of one of the sources is the key of all.

    Raises:
        UserError: No source has such a column, or it is not the same in all that have it.
    """
    held = list(dict.fromkeys(column for source in sources for column in source.tables["train"].columns))
    for column in columns:
        if column not in held:
            raise UserError(
                f"None of the joined sources {listing(source.name for source in sources)} has a column '{column}'."
                f"{closest(column, held)} Their columns: {listing(held, limit=30)}."
            )
    first = str(sources[0].key)
    parts = []
    for source in sources:
        table = source.tables["train"]
        wanted = [(column, column) for column in columns if column != first and table.has(column)]
        parts.append(replace(source, tables={"train": table.arranged([(first, str(source.key)), *wanted])}, key=first))
    return combine(parts, {}).blocks[0].table


def located(targets: Mapping[str, TargetSpec], table: Table) -> dict[str, TargetSpec]:
    """The same targets, with the columns that they have in this table: those of some sources can have another name."""
    if not isinstance(table, CombinedTable):
        return dict(targets)
    found = {}
    for task, spec in targets.items():
        columns = table.targets.get(task, spec.columns)
        # Several columns are their own classes: by the names that the user knows.
        classes = spec.columns if spec.kind == "labels" and len(columns) > 1 else None
        found[task] = replace(spec, columns=columns, classes=spec.classes or classes)
    return found


def _blocks(groups: Sequence[Sequence[Source]]) -> Iterator[Block]:
    start = 0
    for part in ("train", "valid", "test"):
        for group in groups:
            tables = {source.name: source.tables[part] for source in group if part in source.tables}
            if not tables:
                continue
            first = next(iter(tables.values()))
            key = group[0].key
            table = first if len(tables) == 1 or key is None else JoinedTable(tables, key)
            yield Block(part, tuple(tables), table, start)
            start += len(table)


def _concatenated(tables: Sequence[Table], columns: Sequence[str]) -> pa.Table:
    types: dict[str, pa.DataType] = {}
    for table in reversed(tables):
        types |= {column: table.arrow(column).type for column in table.columns}
    schema = pa.schema([(column, types[column]) for column in columns])
    return pa.concat_tables(_with_all_columns(table, schema) for table in tables)


def _with_all_columns(table: Table, schema: pa.Schema) -> pa.Table:
    arrays = [
        table.arrow(field.name)
        if table.has(field.name)
        else pa.chunked_array(nulls(len(table), field.type), field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)
