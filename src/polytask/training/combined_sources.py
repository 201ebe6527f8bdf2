"""Several sources of a configuration as one table, and the rows of each part."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from polytask.config import Config
from polytask.config.checks import learn_from_unlabelled
from polytask.config.schema import SplitConfig
from polytask.data.combined import Block, CombinedTable, columns_to_split_by, combine
from polytask.data.given_splits import joined_split
from polytask.data.joined import JoinedTable
from polytask.data.source import Source, groups_of
from polytask.data.source_checks import check_class_names, check_tasks
from polytask.data.splits import PARTS, Split, make_split
from polytask.data.table import Table
from polytask.errors import UserError, at_key, closest, listing
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
    check_tasks(sources, targets, unlabelled=learn_from_unlabelled(config, config.tasks))
    check_class_names(sources, targets)
    table = combine(sources, targets)
    answers = {column for spec in targets.values() for column in spec.columns}
    inputs = {name: spec.create().named for name, spec in config.inputs.items()}
    for group in groups_of(list(sources)):
        _check_inputs(inputs, group)
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
    by_name = {source.name: source for source in sources}
    rows: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for block in table.blocks:
        if block.part != "train":
            rows[block.part].append(block.rows)
            continue
        split = _own_split(config, block, own_splits)
        if split is None:
            wanted = config.sources[block.sources[0]].split
            split = make_split(
                _to_be_split([by_name[name] for name in block.sources], wanted, block.table),
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
    # Joined sources have one key, called as in the first of them.
    key = next((data.key for data in config.sources.values() if data.key is not None), None)
    return list(dict.fromkeys([*found, *([] if key is None else [key])]))


def split_columns(split: SplitConfig) -> list[str]:
    """The columns that only say which part a row is in."""
    if split.column is None or split.by not in ("group", "column"):
        return []
    return [split.column] if isinstance(split.column, str) else list(split.column)


def _own_split(config: Config, block: Block, own_splits: Mapping[str, Split]) -> Split | None:
    """The split that the data sets bring; None where they bring none, or the user gives the parts of one.

    Raises:
        UserError: Data sets that are joined bring one, and something else is asked for.
    """
    own = {name: own_splits[name] for name in block.sources if name in own_splits}
    if not own:
        return None
    first = block.sources[0]
    if not isinstance(block.table, JoinedTable):
        return None if _given(config, block) else own[first]
    wanted = config.sources[first].split
    problem = None if wanted == SplitConfig() else f"data.{first}.split asks for another one, by: {wanted.by}"
    for name in block.sources:
        for part, purpose in (("valid", "validation"), ("test", "testing")):
            if getattr(config.sources[name], part) is not None:
                problem = f"'{name}' has a table for {purpose}"
    if problem is not None:
        giver = next(iter(own))
        raise UserError(
            f"The source '{giver}' brings a split of its own, which holds for all that is joined with it, but "
            f"{problem}. Leave that out, or take `key` out of '{giver}' to keep its rows apart."
        )
    return joined_split(block.table, own)


def _to_be_split(sources: Sequence[Source], split: SplitConfig, joined: Table) -> Table:
    """The rows of one source, or of joined ones, with the columns to split by as the user knows them."""
    if len(sources) == 1:
        return sources[0].tables["train"]
    columns = [split.column] if isinstance(split.column, str) else list(split.column or ())
    if split.by == "random" or not columns:
        return joined
    with at_key(f"data.{sources[0].name}.split.column"):
        return columns_to_split_by(sources, columns)


def _given(config: Config, block: Block) -> set[str]:
    """The parts that a source has tables for, or one of those that are joined."""
    sources = [config.sources[name] for name in block.sources]
    return {part for part in ("valid", "test") if any(getattr(source, part) is not None for source in sources)}


def _check_inputs(inputs: Mapping[str, Sequence[str]], group: Sequence[Source]) -> None:
    """Make sure that rows of a source, or of several that are joined, have something to read.

    Args:
        inputs: The columns that each input names.
        group: The source, or those that are joined.

    Raises:
        UserError: They have none of the columns of any input.
    """
    held = {column for source in group for column in source.tables["train"].columns}
    lacking = [name for name, columns in inputs.items() if columns and held.isdisjoint(columns)]
    for name, columns in inputs.items():
        if name not in lacking or len(lacking) == len(inputs):
            _check_input(name, columns, group)
    if lacking:
        named = listing(source.name for source in group)
        logger.info("Rows of %s have no %s: they are read without.", named, listing(lacking))


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
            absent = [c for c in source.tables["train"].columns if c not in answers and not table.has(c)]
            if absent:
                logger.warning(
                    "%s (%s of '%s') has no %s: missing there.", table.source, part, source.name, listing(absent)
                )
