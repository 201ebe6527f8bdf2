"""Targets of the edges between the classes of a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from polytask.data.encoded import Dense, Encoded
from polytask.data.geometry import Geometry
from polytask.data.mask_target import whole_numbers
from polytask.data.pixel_target import AT_ONCE, PixelTarget
from polytask.data.table import Table
from polytask.data.tallies import percent
from polytask.data.target import Tally
from polytask.errors import UserError
from polytask.labels import TargetSummary

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input

_BLANK = -1


class EdgesTarget(PixelTarget):
    """Where the classes of a mask meet: int64 `[B, H, W]`, 1 for pixels by which one of another class lies."""

    noun = "masks"
    _area: float
    """The mean area of the training masks in their files; after `fit`."""

    def follow(self, inputs: Mapping[str, Input]) -> None:
        """See `Target.follow`."""
        super().follow(inputs)
        inside, edge = self.summary.counts
        total = inside + edge
        # Edges are lines: of a picture of half the side they have twice the share.
        smaller = (self._area / (self.size[0] * self.size[1])) ** 0.5
        found = round(min(0.5, edge / total * smaller) * total)
        self._summary = replace(self.summary, counts=(total - found, found))

    def read_one(self, values: np.ndarray) -> np.ndarray:
        """See `PixelTarget.read_one`: int32 `[H, W]`."""
        ids = whole_numbers(values)
        return np.where(np.isin(ids, self.spec.ignore) | (ids < 0), _BLANK, ids).astype(np.int32)

    def blank(self, rows: int) -> Tensor:
        """See `PixelTarget.blank`."""
        return torch.full((rows, *self.size), _BLANK, dtype=torch.int32)

    def valid(self, kept: Tensor) -> Tensor:
        """See `PixelTarget.valid`."""
        return kept != _BLANK

    def moved(self, kept: Tensor, geometry: Geometry) -> Tensor:
        """See `PixelTarget.moved`."""
        return geometry.nearest(kept, _BLANK)

    def made(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """See `PixelTarget.made`."""
        return edges(kept, self.spec.edge).long(), self.valid(kept)

    def tally(self) -> Tally:
        """See `Target.tally`."""
        return _EdgeTally(self.spec.edge)

    @property
    def row_bytes(self) -> int:
        """See `Target.row_bytes`."""
        return 4 * self.size[0] * self.size[1]

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        inside, edge, labelled, masks, area = 0, 0, 0, 0, 0
        for positions, part in table.batches(self.spec.columns, rows, size=AT_ONCE):
            for _, values in self._maps(part, positions, table):
                one = torch.from_numpy(values)[None]
                known = int(self.valid(one).sum())
                found = int(edges(one, self.spec.edge).sum())
                inside, edge, labelled = inside + known - found, edge + found, labelled + bool(known)
                masks, area = masks + 1, area + values.size
        self._tell_unreadable()
        self._require_labels(labelled, table, rows)
        if edge == 0:
            raise UserError(
                f"Task '{self.task}': no two classes meet in the masks of the training part of {table.source}, so "
                "there is no edge to learn."
            )
        self._area = area / masks
        return TargetSummary(labelled=labelled, classes=("none", "edge"), counts=(inside, edge))


def edges(classes: Tensor, width: int) -> Tensor:
    """Which pixels have one of another class beside them, bool `[B, H, W]`.

    Args:
        classes: `[B, H, W]`, below 0 where there is none: such pixels are no edge, and make none.
        width: How far away the other pixel may be, left, right, above or below.
    """
    found = torch.zeros_like(classes, dtype=torch.bool)
    for step in range(1, width + 1):
        for dim in (1, 2):
            length = classes.shape[dim] - step
            if length < 1:
                continue
            one, other = classes.narrow(dim, 0, length), classes.narrow(dim, step, length)
            differ = (one != other) & (one >= 0) & (other >= 0)
            found.narrow(dim, 0, length).logical_or_(differ)
            found.narrow(dim, step, length).logical_or_(differ)
    return found


class _EdgeTally(Tally):
    """The share of the pixels that are edges."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._edge = self._known = 0

    def add(self, values: Encoded) -> None:
        """See `Tally.add`."""
        assert isinstance(values, Dense)
        kept = values.tensors["target"]
        self._edge += int(edges(kept, self._width).sum())
        self._known += int((kept != _BLANK).sum())

    def __str__(self) -> str:
        return f"edges: {percent(100 * self._edge / max(self._known, 1))} of the pixels"
