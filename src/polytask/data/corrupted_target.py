"""Rows that are to be restored after a part of them was taken away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from polytask.data.inputs.draws import Draws
from polytask.data.inputs.tabular import MISSING
from polytask.data.view_target import View, ViewTarget
from polytask.labels import TargetSummary
from polytask.shapes import ImageShape, TabularShape

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input
    from polytask.data.table import Table

CELLS = 8
"""Into how many cells the sides of an image are cut."""


class CorruptedTarget(ViewTarget):
    """What a row was before it was changed, all of it.

    Of a table: float32 `[B, N + C]`, the numbers as the network reads them and the codes of the categories. Of images:
    float32 `[B, C, H, W]`, the pixels as the network reads them.
    """

    modalities = ("tabular", "image")

    def view(self, value: Any, rows: np.ndarray, draws: Draws) -> View:
        """See `ViewTarget.view`."""
        if not isinstance(value, Mapping):
            changed = blanked(value, self._chosen(rows, draws, CELLS * CELLS).view(-1, CELLS, CELLS))
            return View((changed,), value.float(), torch.ones(value.shape, dtype=torch.bool))
        numbers, codes = value["numeric"], value["categorical"]
        target = torch.cat([numbers, codes.to(numbers.dtype)], dim=1)
        chosen = self._chosen(rows, draws, target.shape[1])
        if self.spec.corruption == "swap":
            version = swapped(value, chosen, donors(rows, draws, self.stream(1), target.shape[1]))
        else:
            here, there = chosen[:, : numbers.shape[1]], chosen[:, numbers.shape[1] :]
            version = {"numeric": numbers.masked_fill(here, 0.0), "categorical": codes.masked_fill(there, MISSING)}
        return View(({**value, **version},), target, torch.ones(target.shape, dtype=torch.bool))

    def _chosen(self, rows: np.ndarray, draws: Draws, columns: int) -> Tensor:
        """What is changed, bool `[B, columns]`."""
        return torch.from_numpy(draws.grid(rows, self.stream(0), columns) < self.spec.share)

    def _learned(self, source: Input, table: Table, rows: np.ndarray) -> TargetSummary:
        shape = source.shape
        total, seen = torch.zeros(0), 0
        if isinstance(shape, ImageShape):
            for value in self._sample(source, table, rows):
                total, seen = _added(total, value.mean(dim=(2, 3))), seen + len(value)
            mean = (total / max(seen, 1)).tolist()
            return TargetSummary(labelled=len(rows), mean=mean, image_size=(shape.height, shape.width))
        assert isinstance(shape, TabularShape)
        counts = [np.zeros(size, dtype=np.int64) for size in shape.cardinalities]
        for value in self._sample(source, table, rows):
            total, seen = _added(total, value["numeric"]), seen + len(value["numeric"])
            for number, codes in enumerate(value["categorical"].T.numpy()):
                counts[number] += np.bincount(codes, minlength=len(counts[number]))
        return TargetSummary(
            labelled=len(rows),
            mean=(total / max(seen, 1)).tolist(),
            counts=[int(count) for column in counts for count in column],
            cardinalities=tuple(shape.cardinalities),
        )


def blanked(images: Tensor, cells: Tensor) -> Tensor:
    """Images `[B, C, H, W]` with the mean, 0, in some cells of a grid over them, bool `[B, G, G]`."""
    height, width = images.shape[-2:]
    down, right = (torch.arange(size) * cells.shape[1] // size for size in (height, width))
    return images.masked_fill(cells[:, down][:, :, right].unsqueeze(1), 0.0)


def swapped(value: Mapping[str, Tensor], chosen: Tensor, others: Tensor) -> dict[str, Tensor]:
    """A table's rows with the values of other rows in some places.

    Args:
        value: `numeric` `[B, N]` and `categorical` `[B, C]`.
        chosen: The places, bool `[B, N + C]`.
        others: The row that each place's value would be taken from, int64 `[B, N + C]`.
    """
    found, start = {}, 0
    for name in ("numeric", "categorical"):
        own = value[name]
        here = slice(start, start + own.shape[1])
        found[name] = torch.where(chosen[:, here], own.gather(0, others[:, here]), own)
        start = here.stop
    return found


def donors(rows: np.ndarray, draws: Draws, stream: int, columns: int) -> Tensor:
    """Rows of the batch for values to be taken from, int64 `[B, columns]`, all as likely."""
    return torch.from_numpy((draws.grid(rows, stream, columns) * len(rows)).astype(np.int64))


def _added(total: Tensor, values: Tensor) -> Tensor:
    found = values.double().sum(dim=0)
    return found if not total.numel() else total + found
