"""One of several data sets that are learned from together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polytask.data.table import Table


@dataclass(frozen=True)
class Source:
    """A data set with a name.

    Attributes:
        name: Its name.
        tables: Its tables by part: `train`, and where they are given `valid` and `test`.
        key: The column whose equal values mean the same row in all sources that have one; None: its rows are its own.
    """

    name: str
    tables: Mapping[str, Table]
    key: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its tables, without repetition."""
        return tuple(dict.fromkeys(column for table in self.tables.values() for column in table.columns))

    def has(self, column: str) -> bool:
        """Whether one of its tables has a column."""
        return any(table.has(column) for table in self.tables.values())


def groups_of(sources: list[Source]) -> list[list[Source]]:
    """The sources whose rows are put together: all that have a key in one group, each of the others alone."""
    groups: dict[str, list[Source]] = {}
    for source in sources:
        groups.setdefault(source.name if source.key is None else "", []).append(source)
    return list(groups.values())
