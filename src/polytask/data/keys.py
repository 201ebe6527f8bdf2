"""Keys: values of a column that say which rows of several data sets are the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.column_types import ColumnType
from polytask.data.source import Source
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing

_SHOWN = 10


def check_key_columns(sources: Sequence[Source]) -> None:
    """Make sure that the keys are there, are complete, and name a row each.

    Raises:
        UserError: A table has no such column, a row has no key, or two rows of one table have the same.
    """
    for source in sources:
        for table in source.tables.values():
            if source.key is not None:
                _check_column(source, source.key, table)
                _check_values(source.key, table)
    _check_numbers([source for source in sources if source.key is not None])


def check_keys(sources: Sequence[Source]) -> None:
    """Make sure that the keys of joined sources, or of one, fit each other, and leak nothing.

    Args:
        sources: Sources with a key; their keys have the same name and type.

    Raises:
        UserError: A source has no key in common with another, or a key is in the tables of two parts: training,
            validation and testing.
    """
    _check_common(sources)
    _check_leaks(sources)


def _check_common(sources: Sequence[Source]) -> None:
    """Make sure that each of several joined sources has a key that another one has too.

    Args:
        sources: Joined sources: their keys have the same name and type.

    Raises:
        UserError: One has not: the keys mean something else, or are written differently.
    """
    keys = {source.name: _all_keys(source, list(source.tables)) for source in sources}
    for source in sources:
        others = [other for other in sources if other is not source]
        if others and not any(_common(keys[source.name], keys[other.name]) for other in others):
            raise UserError(
                f"No key '{source.key}' of the source '{source.name}' is a key of {listing(o.name for o in others)}, "
                f"so that no row would be joined. Keys of '{source.name}': {_examples(keys[source.name])}; of "
                f"'{others[0].name}': {_examples(keys[others[0].name])}. Name the column whose values are the same in "
                "both as `key`, write them in one way, or take `key` out to keep the rows apart."
            )


def _check_leaks(sources: Sequence[Source]) -> None:
    """Make sure that no key is in the tables of two parts.

    Args:
        sources: Joined sources, or one with a key.

    Raises:
        UserError: Some are; the first of them are listed.
    """
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        for here in sources:
            for there in sources:
                if one in here.tables and other in there.tables:
                    held = _all_keys(there, [other])
                    common = pc.unique(held.filter(pc.is_in(held, value_set=_all_keys(here, [one]))))
                    if len(common):
                        raise _leak(here, one, there, other, common)


def _leak(here: Source, one: str, there: Source, other: str, common: pa.Array) -> UserError:
    shown = ", ".join(repr(value) for value in common.slice(0, _SHOWN).to_pylist())
    more = f" and {len(common) - _SHOWN:,} more" if len(common) > _SHOWN else ""
    count = "key is" if len(common) == 1 else "keys are"
    return UserError(
        f"{len(common):,} {count} in the {_CALLED[one]} data ({here.tables[one].source}) and also in the {other} data "
        f"({there.tables[other].source}), column '{here.key}': {shown}{more}. A model must not be judged by rows that "
        f"it has learned from, or was chosen by: take them out of one of the two, or leave out `{other}` to have it "
        "split off after joining."
    )


_CALLED = {"train": "training", "valid": "validation"}


def _check_column(source: Source, key: str, table: Table) -> None:
    if not table.has(key):
        raise UserError(
            f"{table.source} has no column '{key}', the key of the source '{source.name}'."
            f"{closest(key, table.columns)} Its columns: {listing(table.columns, limit=30)}."
        )
    kind = table.types[key]
    if kind in (ColumnType.LIST, ColumnType.OTHER) or pa.types.is_nested(table.arrow(key).type):
        raise UserError(
            f"{table.source}: the column '{key}' ({kind.value}) cannot be a key. Keys are numbers, names or dates."
        )


def _check_numbers(sources: Sequence[Source]) -> None:
    """Whole numbers and fractions are not compared: large whole numbers that differ can be the same fraction."""
    kinds = {
        source.name: {pa.types.is_floating(table.arrow(str(source.key)).type) for table in source.tables.values()}
        for source in sources
        if all(table.types[str(source.key)] is ColumnType.NUMBER for table in source.tables.values())
    }
    if len(set().union(*kinds.values())) > 1:
        fractions = next(source for source in sources if True in kinds.get(source.name, ()))
        raise UserError(
            f"The key '{fractions.key}' of the source '{fractions.name}' has fractions (or an empty value somewhere), "
            "but other keys are whole numbers, so that they cannot be compared safely. Write it as whole numbers, or "
            f"make all keys texts: `columns: {{'{fractions.key}': category}}` in each of the joined sources."
        )


def _check_values(key: str, table: Table) -> None:
    values = table.column(key)
    missing = pc.is_null(values, nan_is_null=True)
    if pc.any(missing).as_py():
        row = int(pc.index(missing, True).as_py())
        raise UserError(f"{table.locate(row)} has no value in '{key}', the key. Give it one, or take the row out.")
    codes = codes_of([values])[0]
    twice = np.flatnonzero(np.bincount(codes) > 1)
    if len(twice):
        rows = np.flatnonzero(codes == twice[0])[:2]
        more = f"; {len(twice):,} keys are there more than once" if len(twice) > 1 else ""
        raise UserError(
            f"{table.locate(int(rows[1]))}, column '{key}': the key {values[int(rows[1])].as_py()!r} is there already, "
            f"in row {int(rows[0]) + 1}{more}. A key names one row of a source: keep one of the rows."
        )


def codes_of(columns: Sequence[pa.ChunkedArray]) -> list[np.ndarray]:
    """A number for each value, the same in all columns, in the order of first appearance; int64 `[rows]` each.

    Args:
        columns: Values of one type, none missing.
    """
    chunks = [chunk for column in columns for chunk in column.chunks]
    encoded = pa.chunked_array(chunks, columns[0].type).dictionary_encode().combine_chunks()
    codes = encoded.indices.to_numpy().astype(np.int64)
    return np.split(codes, np.cumsum([len(column) for column in columns])[:-1])


def _all_keys(source: Source, parts: Sequence[str]) -> pa.ChunkedArray:
    columns = [source.tables[part].column(str(source.key)) for part in parts]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)


def _common(keys: pa.ChunkedArray, others: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.is_in(keys, value_set=others)).as_py())


def _examples(keys: pa.ChunkedArray) -> str:
    return ", ".join(repr(value) for value in keys.slice(0, 3).to_pylist())
