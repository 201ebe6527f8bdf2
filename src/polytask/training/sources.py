"""From the `data` part of a configuration to tables and the rows of each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polytask.config import DataConfig
from polytask.data.builtin import builtin_names, read_builtin
from polytask.data.column_types import AbsentColumns
from polytask.data.readers import ReadOptions, read_table
from polytask.data.splits import Split, make_split
from polytask.data.table import Table
from polytask.errors import UserError


@dataclass(frozen=True)
class Part:
    """Some rows of a table: what training, validation or testing reads.

    Attributes:
        table: The table.
        rows: Positions, int64, ascending.
    """

    table: Table
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Sources:
    """The parts of the data.

    Attributes:
        parts: `train`, and where there is one `valid` and `test`.
        split: The split of the training table, where it was split.
    """

    parts: Mapping[str, Part]
    split: Split | None

    @property
    def fingerprint(self) -> dict[str, str]:
        """Tells whether the tables are still the same."""
        return {name: part.table.fingerprint for name, part in self.parts.items()}


def open_sources(data: DataConfig, saved: Split | None = None) -> Sources:
    """Open the tables, and split the training table where validation or test rows are not given.

    Args:
        data: The configuration.
        saved: The split of an earlier run, used as it is.

    Raises:
        UserError: A table cannot be read or split.
    """
    train, own_split = open_table(data.train, data)
    given = {name: path for name in ("valid", "test") if (path := getattr(data, name)) is not None}
    if saved is not None:
        saved.check(train)
    split = saved or (own_split if not given else None)
    if split is None:
        wanted = data.split
        split = make_split(
            train,
            by=wanted.by,
            column=wanted.column,
            valid=0.0 if "valid" in given else wanted.valid,
            test=0.0 if "test" in given else wanted.test,
            seed=wanted.seed,
        )
    parts = {name: Part(train, split.rows[name]) for name in ("train", "valid", "test") if name in split.rows}
    for name, path in given.items():
        table, _ = open_table(path, data)
        parts[name] = whole(table)
    return Sources({name: part for name, part in parts.items() if len(part)}, split)


def open_table(path: str, data: DataConfig) -> tuple[Table, Split | None]:
    """The table at a path or of a built-in name, and the split that a built-in data set brings."""
    if path in builtin_names() and not Path(path).exists():
        return read_builtin(path)
    return read_table(path, ReadOptions(**data.read_options())), None


def open_later_table(path: str, data: DataConfig) -> Table:
    """A table that comes after the training, read as the training's was.

    It need not have every column whose type is set: targets to be predicted, say. What it does need is checked where it
    is used.
    """
    try:
        return open_table(path, data)[0]
    except AbsentColumns as error:
        there = {name: kind for name, kind in data.columns.items() if name not in error.names}
        return open_table(path, data.model_copy(update={"columns": there}))[0]


def whole(table: Table) -> Part:
    """All rows of a table.

    Raises:
        UserError: It has none.
    """
    if len(table) == 0:
        raise UserError(f"'{table.source}' has no rows.")
    return Part(table, np.arange(len(table)))
