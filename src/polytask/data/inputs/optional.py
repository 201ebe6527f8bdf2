"""An input that rows may lack, as one of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from polytask.data.encoded import Encoded, Encoding, Ragged
from polytask.data.geometry import Geometry
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.input import Input
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.partial import PartialInput
from polytask.shapes import InputShape


def rows_with(columns: Sequence[pa.ChunkedArray], rows: int) -> np.ndarray:
    """Which of so many rows have a value in any of some columns, bool `[rows]`. Images and texts are not read."""
    found = np.zeros(rows, dtype=bool)
    for column in columns:
        found |= ~np.asarray(pc.is_null(column, nan_is_null=True))
    return found


class PartialRows(Encoded):
    """Encoded rows, some of which lack the input.

    Args:
        values: Those that have it; None where none has.
        places: int64 `[N]`: where each row is among those, -1 for rows that lack it.
    """

    def __init__(self, values: Encoded | None, places: np.ndarray) -> None:
        self.values = values
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @property
    def nbytes(self) -> int:
        """See `Encoded.nbytes`."""
        return int(self.places.nbytes) + (0 if self.values is None else self.values.nbytes)

    @property
    def lengths(self) -> np.ndarray | None:
        """int64 `[N]`: the rows' lengths, 0 where the input is lacking; None where rows have none."""
        found = np.zeros(len(self), dtype=np.int64)
        if self.values is None:
            return found
        if not isinstance(self.values, Ragged):
            return None
        there = self.places >= 0
        found[there] = self.values.lengths[self.places[there]]
        return found

    def select(self, positions: np.ndarray) -> Self:
        """See `Encoded.select`."""
        chosen = self.places[positions]
        there = chosen >= 0
        values = self.values.select(chosen[there]) if self.values is not None and there.any() else None
        return type(self)(values, _places(there))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """See `Encoded.join`."""
        values = [part.select(np.flatnonzero(part.places >= 0)).values for part in parts]
        known = [each for each in values if each is not None]
        there = np.concatenate([part.places >= 0 for part in parts])
        return cls(type(known[0]).join(known) if known else None, _places(there))


class OptionalInput(Input):
    """A fitted input, of which rows without a value in any of its columns are no error: they lack it.

    What reads it gets a `PartialInput` where some rows lack it, and else what the input itself gives.

    Args:
        source: The input.
        table: The table whose rows are read; it has all of the input's columns, or none.
    """

    def __init__(self, source: Input, table: Table) -> None:
        self.source = source
        self.modality = source.modality  # type: ignore[misc]
        self.columns = tuple(column for column in source.columns if table.has(column))

    @property
    def named(self) -> tuple[str, ...]:
        """See `Input.named`."""
        return self.source.named

    @property
    def shape(self) -> InputShape:
        """See `Input.shape`."""
        return self.source.shape

    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """See `Input.fit`: from the rows that have it."""
        self.source.fit(table, rows[self.there(table)[rows]], targets)

    def there(self, table: Table) -> np.ndarray:
        """Which rows of a table have it, bool `[N]`."""
        return rows_with([table.arrow(column) for column in self.columns], len(table))

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """See `Input.encode`: the rows that have it."""
        own = part.select(list(self.columns))
        there = rows_with(own.columns, len(rows))
        if not there.any():
            return Encoding(PartialRows(None, _places(there)))
        if not there.all():
            own = own.take(np.flatnonzero(there))
        encoding = self.source.encode(own, rows[there], table)
        return encoding._replace(values=PartialRows(encoding.values, _places(there)))

    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> Any:
        """See `Input.collate`."""
        assert isinstance(values, PartialRows)
        there = np.flatnonzero(values.places >= 0)
        known = None if values.values is None else self.source.collate(values.values, rows[there], draws)
        return known if len(there) == len(rows) else PartialInput(known, torch.from_numpy(there), len(rows))

    def geometry(self, rows: np.ndarray, draws: Draws | None) -> Geometry | None:
        """See `Input.geometry`."""
        return self.source.geometry(rows, draws)

    @property
    def moves_untold(self) -> str | None:
        """See `Input.moves_untold`."""
        return self.source.moves_untold

    @property
    def row_bytes(self) -> int:
        """See `Input.row_bytes`."""
        return self.source.row_bytes

    @property
    def augments(self) -> bool:
        """See `Input.augments`."""
        return self.source.augments

    def state_dict(self) -> dict[str, Any]:
        """See `Input.state_dict`."""
        return self.source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Input.load_state_dict`."""
        self.source.load_state_dict(state)


def _places(there: np.ndarray) -> np.ndarray:
    """int64 `[N]`: numbers for the rows that are there (bool `[N]`), in order; -1 for the others."""
    return np.where(there, there.cumsum() - 1, -1)
