"""Values at the positions of rows of different lengths: tags of words, letters of texts, and what heads say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from polytask.row_values import RowTargets

BLANK = -1
"""What integer values hold where there is nothing: behind a row's end, and where a label is not known."""


class Sequences(RowTargets):
    """B sequences, padded to one length.

    Args:
        values: `[B, L, ...]`; what lies behind a row's end is not looked at.
        lengths: int64 `[B]`, at most L.
    """

    def __init__(self, values: Tensor, lengths: Tensor) -> None:
        self.values = values
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mask(self) -> Tensor:
        """Bool `[B, L]`: which positions lie before the row's end."""
        return torch.arange(self.values.shape[1], device=self.lengths.device) < self.lengths.unsqueeze(1)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """See `RowValues.map`."""
        return type(self)(function(self.values), function(self.lengths))

    def select(self, rows: Tensor) -> Self:
        """See `RowValues.select`."""
        return self.map(lambda tensor: tensor[rows.to(tensor.device)])

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """See `RowTargets.join`."""
        longest = max(part.values.shape[1] for part in parts)
        values = [padded(part.values, longest) for part in parts]
        return cls(torch.cat(values), torch.cat([part.lengths for part in parts]))

    def spread(self, start: int, rows: int) -> Self:
        """See `RowTargets.spread`; blank rows have no positions."""
        blank = BLANK if not self.values.is_floating_point() else 0
        values = self.values.new_full((rows, *self.values.shape[1:]), blank)
        lengths = self.lengths.new_zeros(rows)
        values[start : start + len(self)] = self.values
        lengths[start : start + len(self)] = self.lengths
        return type(self)(values, lengths)


def padded(values: Tensor, length: int) -> Tensor:
    """`[B, L, ...]` with `length` positions: blank ones are added, or the last ones cut off."""
    missing = length - values.shape[1]
    if missing <= 0:
        return values[:, :length]
    blank = 0.0 if values.is_floating_point() else float(BLANK)
    return F.pad(values, (*(0, 0) * (values.ndim - 2), 0, missing), value=blank)
