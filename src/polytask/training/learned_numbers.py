"""What a sharing scheme had learned by the end of each epoch, number by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from polytask.sharing import LearnedTable


class LearnedNumber(NamedTuple):
    """One number that the sharing scheme had learned by the end of an epoch; see `LearnedTable`."""

    epoch: int
    table: str
    row: str
    column: str
    value: float


def numbers_of(tables: Mapping[str, LearnedTable], epoch: int) -> list[LearnedNumber]:
    """The numbers in some tables, by the tables' names.

    Args:
        tables: The tables at the end of the epoch.
        epoch: The epoch, counted from 1.
    """
    return [
        LearnedNumber(epoch, name, row, column, value)
        for name, table in tables.items()
        for row, values in zip(table.rows, table.values.tolist(), strict=True)
        for column, value in zip(table.columns, values, strict=True)
    ]
