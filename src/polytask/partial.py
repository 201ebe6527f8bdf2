"""An input that only some of a batch's rows have: their values, and which rows these are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polytask.row_values import RowValues, map_values, select_values


@dataclass(frozen=True, eq=False)
class PartialInput(RowValues):
    """What n of B rows have of an input; the others lack it.

    Attributes:
        values: What an encoder reads of the n rows: a tensor, row values, or such by name; None where n is 0.
        rows: int64 `[n]`: the rows that have it, ascending. Always on the CPU, so that what is computed for whom is
            known without waiting for a device.
        size: B.
    """

    values: Any
    rows: Tensor
    size: int

    def __len__(self) -> int:
        return self.size

    def map(self, function: Callable[[Tensor], Tensor]) -> PartialInput:
        """See `RowValues.map`; `rows` stays where it is."""
        return PartialInput(_mapped(self.values, function), self.rows, self.size)

    def select(self, rows: Tensor) -> PartialInput:
        """See `RowValues.select`; on a device, it is waited for."""
        wanted = rows.cpu()
        places = torch.full((self.size,), -1)
        places[self.rows] = torch.arange(len(self.rows))
        chosen = places[wanted]
        there = (chosen >= 0).nonzero().squeeze(1)
        return PartialInput(chosen_rows(self.values, chosen[there]), there, len(wanted))


def chosen_rows(values: Any, rows: Tensor) -> Any:
    """Some rows (int64 positions) of what an encoder reads; None where that is none of them."""
    if values is None or not len(rows):
        return None
    if isinstance(values, Mapping):
        return {name: chosen_rows(part, rows) for name, part in values.items()}
    return select_values(values, rows)


def whole_rows(values: Any, rows: Tensor | None) -> Any:
    """Some rows (int64 positions; None: all) of an input or of a partial one that has all of these: no partial one."""
    if isinstance(values, PartialInput):
        return values.values if rows is None else values.select(rows).values
    return values if rows is None else chosen_rows(values, rows)


def joined_rows(parts: Sequence[Any]) -> Any:
    """The rows of all parts, one part after the other: tensors, or such by name."""
    if isinstance(parts[0], Mapping):
        return {name: joined_rows([part[name] for part in parts]) for name in parts[0]}
    return torch.cat(list(parts))


def row_count(values: Any) -> int:
    """How many rows there are of what an encoder reads."""
    while isinstance(values, Mapping):
        values = next(iter(values.values()))
    return len(values)


def _mapped(values: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if values is None:
        return None
    if isinstance(values, Mapping):
        return {name: _mapped(part, function) for name, part in values.items()}
    return map_values(values, function)
