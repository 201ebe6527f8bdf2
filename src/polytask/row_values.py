"""Values of B rows that are no plain tensor: graphs in a batch, boxes of images, words of sentences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class RowValues(ABC):
    """Values of B rows, of whatever form: what a batch, a model and a scorer need to be able to do with them."""

    @abstractmethod
    def __len__(self) -> int:
        """B, the number of rows."""

    @abstractmethod
    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same with `function` applied to all tensors: moves them to a device, say."""

    @abstractmethod
    def select(self, rows: Tensor) -> Self:
        """The values of some rows (int64 positions), in that order."""


class RowTargets(RowValues):
    """Such values as targets, which are gathered over batches and may be known for some of a batch's rows alone."""

    @classmethod
    @abstractmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one part after the other."""

    @abstractmethod
    def spread(self, start: int, rows: int) -> Self:
        """These as the values of a number of `rows`, from the one at `start` on; the others are blank."""


def select_values(values: Any, rows: Tensor) -> Any:
    """Some rows (int64 positions) of a tensor or of row values, on their own device."""
    return values.select(rows) if isinstance(values, RowValues) else values[rows.to(values.device)]


def map_values(values: T, function: Callable[[Tensor], Tensor]) -> T:
    """A tensor, or row values, with `function` applied to each tensor."""
    if isinstance(values, RowValues):
        return values.map(function)
    return function(values)  # type: ignore[arg-type,return-value]


def join_values(parts: Sequence[Any]) -> Any:
    """The rows of all parts: tensors, row targets, or lists with an entry a row."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, RowTargets):
        return first.join(parts)
    return [row for part in parts for row in part]


def spread_values(values: Any, start: int, rows: int) -> Any:
    """The values of some rows as those of a number of `rows`, from the one at `start` on; the others are blank."""
    if isinstance(values, RowTargets):
        return values.spread(start, rows)
    spread = values.new_zeros((rows, *values.shape[1:]))
    spread[start : start + len(values)] = values
    return spread
