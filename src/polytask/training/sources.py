"""From the `data` part of a configuration to the rows of each part: of one table, or of several sources as one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from polytask.config import Config, DataConfig
from polytask.config.schema import SplitConfig
from polytask.data.keys import check_key_columns, check_keys
from polytask.data.source import Source
from polytask.data.splits import Split, make_split
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.training.combined_sources import (
    combine_sources,
    read_sources,
    reserved_columns,
    split_columns,
    split_rows,
)
from polytask.training.open_table import open_table

logger = logging.getLogger("polytask")


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
        reserved: Columns that only say which row is which, or in which part: inputs read them if they name them.
    """

    parts: Mapping[str, Part]
    split: Split | None
    reserved: Collection[str] = ()

    @property
    def fingerprint(self) -> dict[str, str]:
        """Tells whether the tables are still the same."""
        return {name: part.table.fingerprint for name, part in self.parts.items()}


def open_sources(config: Config | DataConfig, saved: Split | None = None) -> Sources:
    """Open the tables, and split what is for training where validation or test rows are not given.

    Several sources become one table; see `polytask.data.combined`.

    Args:
        config: The configuration, or its `data` where these are one source.
        saved: The split of an earlier run, used as it is.

    Raises:
        UserError: A table cannot be read or split, or the sources do not fit each other or the tasks.
    """
    data = config if isinstance(config, DataConfig) else config.data
    if isinstance(data, DataConfig):
        return _open_one(data, saved)
    assert isinstance(config, Config)
    sources, splits = read_sources(config)
    table = combine_sources(config, sources)
    if saved is not None:
        saved.check(table)
    split = saved or split_rows(config, table, sources, splits)
    parts: dict[str, Part] = {name: Part(table, rows) for name, rows in split.rows.items() if len(rows)}
    return Sources(parts, split, reserved_columns(config))


def _open_one(data: DataConfig, saved: Split | None) -> Sources:
    train, own_split = open_table(data.train, data)
    given = {name: path for name in ("valid", "test") if (path := getattr(data, name)) is not None}
    if saved is not None:
        saved.check(train)
    split = saved or (own_split if not given else None)
    if split is own_split is not None and data.split != SplitConfig():
        logger.warning("%s brings a split of its own, which is used: data.split is not.", train.source)
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
    if data.key is not None:
        tables = {"train": train, **{name: parts[name].table for name in given}}
        source = Source("data", tables, data.key)
        check_key_columns([source])
        check_keys([source])
    found = {name: part for name, part in parts.items() if len(part)}
    return Sources(found, split, [*split_columns(data.split), *([] if data.key is None else [data.key])])


def whole(table: Table) -> Part:
    """All rows of a table.

    Raises:
        UserError: It has none.
    """
    if len(table) == 0:
        raise UserError(f"'{table.source}' has no rows.")
    return Part(table, np.arange(len(table)))
