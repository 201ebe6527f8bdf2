"""Tables as the `data` part of a configuration says they are to be read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from polytask.config import DataConfig
from polytask.data.builtin import builtin_names, read_builtin
from polytask.data.column_types import AbsentColumns
from polytask.data.readers import ReadOptions, read_table
from polytask.data.splits import Split
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing


def open_table(path: str, data: DataConfig) -> tuple[Table, Split | None]:
    """The table at a path or of a built-in name, and the split that a built-in data set brings.

    Raises:
        UserError: It cannot be read, or a column that is to have another name is not there.
    """
    table, split = _read(path, data)
    for name in data.rename:
        if not table.has(name):
            raise UserError(
                f"{table.source} has no column '{name}', which is to be renamed.{closest(name, table.columns)} "
                f"Its columns: {listing(table.columns, limit=30)}."
            )
    return renamed(table, data.rename), split


def open_later_table(path: str, data: DataConfig) -> Table:
    """A table that comes after the training, read as the training's was.

    It need not have every column whose type or name is set: targets to be predicted, say. What it does need is checked
    where it is used.
    """
    try:
        return renamed(_read(path, data)[0], data.rename)
    except AbsentColumns as error:
        there = {name: kind for name, kind in data.columns.items() if name not in error.names}
        return renamed(_read(path, data.model_copy(update={"columns": there}))[0], data.rename)


def renamed(table: Table, names: Mapping[str, str]) -> Table:
    """A table with other names for the columns that it has."""
    there = {old: new for old, new in names.items() if table.has(old)}
    return table.renamed(there) if there else table


def common_reading(sources: Collection[DataConfig]) -> DataConfig:
    """How to read a table that is of no source in particular: what the sources agree on, and else the default."""
    first = next(iter(sources))
    agreed: dict[str, Any] = {
        name: value
        for name, value in first.read_options().items()
        if name != "columns" and all(source.read_options()[name] == value for source in sources)
    }
    types: dict[str, Any] = {}
    for source in sources:
        for column, kind in source.columns.items():
            types.setdefault(source.rename.get(column, column), set()).add(kind)
    columns = {column: next(iter(kinds)) for column, kinds in types.items() if len(kinds) == 1}
    return DataConfig(train=first.train, columns=columns, **agreed)


def _read(path: str, data: DataConfig) -> tuple[Table, Split | None]:
    if path in builtin_names() and not Path(path).exists():
        return read_builtin(path)
    return read_table(path, ReadOptions(**data.read_options())), None
