"""Several sources of a configuration as one table, and the rows of each part."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from polytask.config import Config
from polytask.config.schema import SplitConfig
from polytask.data.combined import Block, CombinedTable, combine
from polytask.data.source import Source, groups_of
from polytask.data.source_checks import check_class_names, check_tasks
from polytask.data.splits import PARTS, Split, make_split
from polytask.errors import UserError, closest, listing
from polytask.labels import TargetSpec
from polytask.training.open_table import open_table

logger = logging.getLogger("polytask")


def read_sources(config: Config) -> tuple[list[Source], dict[str, Split]]:
    """The tables of every source, and the splits that built-in data sets bring, by source.

    Raises:
        UserError: A table cannot be read.
    """
    sources, splits = [], {}
    for name, data in config.sources.items():
        tables = {}
        for part in PARTS:
            path = getattr(data, part)
            if path is not None:
                tables[part], split = open_table(path, data)
                if part == "train" and split is not None:
                    splits[name] = split
        sources.append(Source(name, tables, data.key))
    return sources, splits


def combine_sources(config: Config, sources: Sequence[Source]) -> CombinedTable:
    """The sources as one table.

    Raises:
        UserError: They do not fit each other, the tasks or the inputs.
    """
    targets: dict[str, TargetSpec] = {
        name: spec.cls.target_spec({**spec.parameters, "name": name}) for name, spec in config.tasks.items()
    }
    check_tasks(sources, targets)
    check_class_names(sources, targets)
    table = combine(sources, targets)
    answers = {column for spec in targets.values() for column in spec.columns}
    for group in groups_of(list(sources)):
        for name, spec in config.inputs.items():
            _check_input(name, spec.create().named, group)
        _warn_of_absent(group, answers)
    return table


def split_rows(
    config: Config, table: CombinedTable, sources: Sequence[Source], own_splits: Mapping[str, Split]
) -> Split:
    """The rows of each part: those of tables that are given for it, and those split off from tables for training.

    Each source is split by itself, but joined sources together.

    Args:
        config: The configuration.
        table: The table of all sources.
        sources: The sources.
        own_splits: The splits that built-in data sets bring, by source.

    Raises:
        UserError: A source cannot be split as it should be.
    """
    tables = {source.name: source.tables["train"] for source in sources}
    rows: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for block in table.blocks:
        if block.part != "train":
            rows[block.part].append(block.rows)
            continue
        split = own_splits.get(block.sources[0]) if not _given(config, block) else None
        if split is None:
            # Targets of some sources have another name in the combined table: the user knows those of the source.
            whole = tables[block.sources[0]] if len(block.sources) == 1 else block.table
            wanted = config.sources[block.sources[0]].split
            split = make_split(
                whole,
                by=wanted.by,
                column=wanted.column,
                valid=0.0 if "valid" in _given(config, block) else wanted.valid,
                test=0.0 if "test" in _given(config, block) else wanted.test,
                seed=wanted.seed,
            )
        for part, positions in split.rows.items():
            rows[part].append(block.start + positions)
    return Split({part: np.concatenate(found) for part, found in rows.items() if found})


def reserved_columns(config: Config) -> list[str]:
    """The columns that the sources are split by, and their keys."""
    found = [column for data in config.sources.values() for column in split_columns(data.split)]
    return [*found, *(data.key for data in config.sources.values() if data.key is not None)]


def split_columns(split: SplitConfig) -> list[str]:
    """The columns that only say which part a row is in."""
    if split.column is None or split.by not in ("group", "column"):
        return []
    return [split.column] if isinstance(split.column, str) else list(split.column)


def _given(config: Config, block: Block) -> set[str]:
    """The parts that a source has tables for, or one of those that are joined."""
    sources = [config.sources[name] for name in block.sources]
    return {part for part in ("valid", "test") if any(getattr(source, part) is not None for source in sources)}


def _check_input(name: str, columns: Sequence[str], group: Sequence[Source]) -> None:
    """Make sure that rows of a source, or of several that are joined, have what an input reads.

    Raises:
        UserError: They have none of its columns.
    """
    held = {column for source in group for column in source.tables["train"].columns}
    absent = [column for column in columns if column not in held]
    if not absent:
        return
    named = [source.name for source in group]
    which = f"the source '{named[0]}'" if len(named) == 1 else f"each of the joined sources {listing(named)}"
    if len(absent) == len(columns):
        raise UserError(
            f"The input '{name}' reads {listing(columns)}, but {which} has no such column.{closest(absent[0], held)} "
            f"Its columns: {listing(sorted(held), limit=30)}. Give the column that means the same this name: "
            f"`rename: {{its name: '{absent[0]}'}}`."
        )
    logger.warning("The input '%s' reads %s, which %s does not have: missing there.", name, listing(absent), which)


def _warn_of_absent(group: Sequence[Source], answers: set[str]) -> None:
    """Say which columns of a table for training are not in the one for validation or testing."""
    for source in group:
        for part, table in source.tables.items():
            absent = [c for c in source.tables["train"].columns if c not in (*table.columns, *answers)]
            if absent:
                logger.warning(
                    "%s (%s of '%s') has no %s: missing there.", table.source, part, source.name, listing(absent)
                )
