"""Boxes on images: any number a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from polytask.row_values import RowTargets


class RowBoxes(NamedTuple):
    """The boxes of one row.

    Attributes:
        boxes: float32 `[n, 4]`: left, top, right, bottom.
        classes: int64 `[n]`.
        ignored: bool `[n]`.
    """

    boxes: Tensor
    classes: Tensor
    ignored: Tensor


@dataclass(frozen=True, eq=False)
class Boxes(RowTargets):
    """The boxes of B rows, one row's after the other's.

    Attributes:
        boxes: float32 `[N, 4]`: left, top, right, bottom, in pixels of the image as the encoder reads it.
        classes: int64 `[N]`: the classes' numbers.
        ignored: bool `[N]`: boxes that are neither to be found nor wrong to find: difficult ones, and crowds.
        counts: int64 `[B]`: how many boxes each row has.
    """

    boxes: Tensor
    classes: Tensor
    ignored: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.counts.device

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """See `RowValues.map`."""
        return type(self)(function(self.boxes), function(self.classes), function(self.ignored), function(self.counts))

    def select(self, rows: Tensor) -> Self:
        """See `RowValues.select`."""
        rows = rows.to(self.device)
        counts = self.counts[rows]
        # Box j of the result, in a row that begins at `new`, is box j - new + start of this.
        starts, new = (self.counts.cumsum(0) - self.counts)[rows], counts.cumsum(0) - counts
        chosen = torch.arange(int(counts.sum()), device=self.device) + torch.repeat_interleave(starts - new, counts)
        return type(self)(self.boxes[chosen], self.classes[chosen], self.ignored[chosen], counts)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """See `RowTargets.join`."""
        return cls(
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.classes for part in parts]),
            torch.cat([part.ignored for part in parts]),
            torch.cat([part.counts for part in parts]),
        )

    def spread(self, start: int, rows: int) -> Self:
        """See `RowTargets.spread`: the other rows have no box."""
        counts = self.counts.new_zeros(rows)
        counts[start : start + len(self)] = self.counts
        return type(self)(self.boxes, self.classes, self.ignored, counts)

    def rows(self) -> list[RowBoxes]:
        """Each row's boxes; on a device, it is waited for."""
        counts = self.counts.tolist()
        parts = [torch.split(values, counts) for values in (self.boxes, self.classes, self.ignored)]
        return [RowBoxes(*each) for each in zip(*parts, strict=True)]
