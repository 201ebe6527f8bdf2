"""Splits that data sets bring: which part a joined row is in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from polytask.data.joined import JoinedTable
from polytask.data.splits import PARTS, Split
from polytask.errors import UserError, listing

_NOT_THERE, _NOWHERE = -2, -1


def joined_split(table: JoinedTable, splits: Mapping[str, Split]) -> Split:
    """The split of joined rows that follows from those that some of the joined data sets bring.

    Args:
        table: The joined rows.
        splits: By source, which of its rows are in which part; rows that it leaves out are left out here.

    Raises:
        UserError: Two put a row into different parts, or a row is in none of these data sets.
    """
    found = np.full(len(table), _NOT_THERE, dtype=np.int64)
    giver = np.full(len(table), -1)
    for number, (name, positions) in enumerate(zip(table.tables, table.positions, strict=True)):
        if name not in splits:
            continue
        own = np.full(len(table.tables[name]), _NOWHERE, dtype=np.int64)
        for part, members in splits[name].rows.items():
            own[members] = PARTS.index(part)
        rows = np.flatnonzero(positions >= 0)
        parts = own[positions[rows]]
        differ = (found[rows] >= 0) & (parts >= 0) & (found[rows] != parts)
        if differ.any():
            row = int(rows[differ.argmax()])
            first = list(table.tables)[giver[row]]
            here, there = PARTS[found[row]], PARTS[parts[differ.argmax()]]
            raise UserError(
                f"The joined sources '{first}' and '{name}' bring splits of their own, which put "
                f"{_rows(int(differ.sum()))} into different parts: {_key(table, row)} is in '{here}' of "
                f"'{first}' and in '{there}' of '{name}'. What is joined has one split: take `key` out of one of them "
                "to keep the rows apart."
            )
        new = parts > found[rows]
        found[rows[new]], giver[rows[new]] = parts[new], number
    _check_all_there(table, found, splits)
    divided = {part: np.flatnonzero(found == number) for number, part in enumerate(PARTS)}
    return Split({part: rows for part, rows in divided.items() if len(rows)})


def _check_all_there(table: JoinedTable, found: np.ndarray, splits: Mapping[str, Split]) -> None:
    absent = np.flatnonzero(found == _NOT_THERE)
    if len(absent):
        row = int(absent[0])
        brings = "brings a split of its own" if len(splits) == 1 else "bring splits of their own"
        raise UserError(
            f"{listing(splits)} {brings}, but {len(absent):,} of the joined rows are not in it, so that nothing says "
            f"which part they are in; the first is {table.locate(row)} ({_key(table, row)}). Take them out of their "
            f"source, or take its `key` out to keep its rows apart."
        )


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count > 1)}"


def _key(table: JoinedTable, row: int) -> str:
    return f"{table.key} {table.take(np.array([row]), [table.key]).column(0)[0].as_py()!r}"
