"""The columns of several data sets as those of one table: which of them are one column, and of which type."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from polytask.data.column_types import ColumnType, is_text, plain_type
from polytask.data.source import Source, groups_of
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec

_WORDS = {ColumnType.CATEGORY, ColumnType.TEXT}


@dataclass(frozen=True)
class UnitedColumns:
    """Sources whose columns of one name are one column, of one type.

    Attributes:
        sources: The sources, their tables with the columns arranged.
        targets: The columns that each task reads in them.
    """

    sources: list[Source]
    targets: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Column:
    """A column of the united table.

    Attributes:
        name: Its name there.
        origin: Its name in the sources.
        sources: The sources whose values it has.
    """

    name: str
    origin: str
    sources: tuple[str, ...]


def unite_columns(sources: Sequence[Source], targets: Mapping[str, TargetSpec]) -> UnitedColumns:
    """Give the same name and type to what is the same column, and another name to what is not.

    Columns of one name are one column. But a target column that a task reads from some of the sources only, or that has
    another meaning in each, becomes a column of its own for these sources: `label (reviews)`. What no task reads of it
    is left out, so that no input can read an answer. The keys of joined sources become one column, called as in the
    first of them.

    Args:
        sources: The sources.
        targets: How each task's target is to be read; its `sources` are names of sources.

    Raises:
        UserError: A column has types that do not go together, or a name is taken.
    """
    sources = _with_one_key(sources)
    columns = list(_columns(sources, targets))
    times = Counter(column.name for column in columns)
    if taken := [name for name in times if times[name] > 1]:
        raise UserError(
            f"A column called '{taken[0]}' would be made for the task that does not read it from all sources, but "
            f"there is one of that name. Rename it with `rename: {{'{taken[0]}': another name}}`."
        )
    wanted = {source.name: [column for column in columns if source.name in column.sources] for source in sources}
    stored = {column.name: _type(column, sources) for column in columns}
    arranged = [
        replace(
            source,
            tables={part: _arranged(table, wanted[source.name], stored) for part, table in source.tables.items()},
        )
        for source in sources
    ]
    names = {(column.origin, column.sources): column.name for column in columns}
    return UnitedColumns(arranged, {task: _own_names(spec, names, sources) for task, spec in targets.items()})


def own_name(column: str, sources: Collection[str]) -> str:
    """What a column is called that has the values of some sources only."""
    return f"{column} ({', '.join(sources)})"


def _with_one_key(sources: Sequence[Source]) -> list[Source]:
    """The same sources; those that are joined call their keys as the first of them does."""
    keyed = next((group for group in groups_of(list(sources)) if group[0].key is not None), None)
    if keyed is None:
        return list(sources)
    key = str(keyed[0].key)
    return [source if source.key in (None, key) else _renamed_key(source, key) for source in sources]


def _renamed_key(source: Source, key: str) -> Source:
    if source.has(key):
        raise UserError(
            f"The key '{source.key}' of the source '{source.name}' would be called '{key}', as in the source that it "
            f"is joined with, but it has another column of that name. Rename that one with `rename: {{'{key}': another "
            "name}`."
        )
    tables = {part: table.renamed({str(source.key): key}) for part, table in source.tables.items()}
    return replace(source, tables=tables, key=key)


def _columns(sources: Sequence[Source], targets: Mapping[str, TargetSpec]) -> Iterator[_Column]:
    """The columns of the united table, in the order of their first appearance."""
    readers: dict[str, list[TargetSpec]] = defaultdict(list)
    for spec in targets.values():
        for column in dict.fromkeys(spec.columns):
            readers[column].append(spec)
    for name in dict.fromkeys(column for source in sources for column in source.columns):
        there = tuple(source.name for source in sources if source.has(name))
        sets = list(dict.fromkeys(_read_from(spec, there) for spec in readers[name]))
        if not readers[name] or sets == [there]:
            yield _Column(name, name, there)
            continue
        for some in sets:
            if some:
                yield _Column(name if some == there else own_name(name, some), name, some)


def _read_from(spec: TargetSpec, there: Sequence[str]) -> tuple[str, ...]:
    """Those of the sources with a column that a target takes it from."""
    return tuple(name for name in there if spec.sources is None or name in spec.sources)


def _own_names(
    spec: TargetSpec, names: Mapping[tuple[str, tuple[str, ...]], str], sources: Sequence[Source]
) -> tuple[str, ...]:
    """What a target's columns are called, by their names in the sources and by the sources that it reads."""
    found = []
    for origin in spec.columns:
        there = tuple(source.name for source in sources if source.has(origin))
        found.append(names.get((origin, _read_from(spec, there)), origin))
    return tuple(found)


def _arranged(table: Table, columns: Sequence[_Column], stored: Mapping[str, tuple[ColumnType, pa.DataType]]) -> Table:
    there = [column for column in columns if table.has(column.origin)]
    return table.arranged(
        [(column.name, column.origin) for column in there],
        {column.name: stored[column.name][0] for column in there},
        {column.name: stored[column.name][1] for column in there},
    )


def _type(column: _Column, sources: Sequence[Source]) -> tuple[ColumnType, pa.DataType]:
    """The type that a column has in all its sources, and the Arrow type that can hold it."""
    found: list[tuple[str, ColumnType, pa.DataType]] = []
    every: list[tuple[str, ColumnType, pa.DataType]] = []
    for source in sources:
        if source.name in column.sources:
            for table in source.tables.values():
                if table.has(column.origin):
                    values = table.arrow(column.origin)
                    every.append((source.name, table.types[column.origin], values.type))
                    if values.null_count < len(values):
                        found.append(every[-1])
    # What is empty everywhere in a source goes with any type.
    first, *others = found or every
    for other in others:
        if not _go_together(first, other):
            raise _two_types(column, first, other)
    kinds = {kind for _, kind, _ in (first, *others)}
    kind = kinds.pop() if len(kinds) == 1 else ColumnType.TEXT
    storages = [storage for _, _, storage in (first, *others)]
    if len(set(storages)) == 1 and (len(every) == 1 or not pa.types.is_dictionary(storages[0])):
        return kind, storages[0]
    return kind, _storage([plain_type(storage) for storage in storages])


def _go_together(first: tuple[str, ColumnType, pa.DataType], other: tuple[str, ColumnType, pa.DataType]) -> bool:
    kinds = {first[1], other[1]}
    if len(kinds) > 1 and kinds != _WORDS:
        return False
    storages = [plain_type(first[2]), plain_type(other[2])]
    if first[1] in (ColumnType.IMAGE, ColumnType.AUDIO) and is_text(storages[0]) != is_text(storages[1]):
        return False
    try:
        _storage(storages)
    except pa.ArrowTypeError:
        return False
    return True


def _storage(storages: Sequence[pa.DataType]) -> pa.DataType:
    """The Arrow type that can hold values of all these."""
    if any(map(is_text, storages)) and not all(is_text(kind) or pa.types.is_null(kind) for kind in storages):
        texts = {kind for kind in storages if is_text(kind)}
        if any(pa.types.is_nested(kind) or pa.types.is_binary(kind) for kind in storages):
            raise pa.ArrowTypeError("text and records")
        return pa.large_string() if len(texts) > 1 else texts.pop()
    if len({pa.types.is_timestamp(kind) for kind in storages}) > 1:
        storages = [pa.timestamp("us") if pa.types.is_date(kind) else kind for kind in storages]
    schemas = [pa.schema([("values", kind)]) for kind in storages]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _two_types(
    column: _Column, first: tuple[str, ColumnType, pa.DataType], other: tuple[str, ColumnType, pa.DataType]
) -> UserError:
    kinds = (first[1].value, other[1].value)
    if kinds[0] == kinds[1]:
        kinds = (f"{kinds[0]}, {first[2]}", f"{kinds[1]}, {other[2]}")
    here, there = (f"'{name}'" for name in (first[0], other[0]))
    return UserError(
        f"The column '{column.origin}' is of the type {kinds[0]} in the source {here} and of the type {kinds[1]} in "
        f"{there}. If it means the same in both, set its type: `columns: {{'{column.origin}': {kinds[0].split(',')[0]}"
        f"}}` in {there}, or mend its values. If not, give it another name in one of them with `rename`, or, if it is "
        f"a target, name the sources that the task reads it from: `sources: [{first[0]}]`."
    )
