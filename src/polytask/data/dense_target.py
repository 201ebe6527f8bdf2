"""Targets of numbers for each pixel of an image: depth, normals, curvature..."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.data.encoded import Dense, Encoded
from polytask.data.geometry import Geometry
from polytask.data.moments import Moments
from polytask.data.pixel_cells import MapError
from polytask.data.pixel_target import AT_ONCE, PixelTarget
from polytask.data.table import Table
from polytask.data.target import Tally
from polytask.errors import UserError
from polytask.labels import TargetSummary

log = logging.getLogger("polytask")

_LEAST_LENGTH = 0.1
"""Normals that are shorter are none: what direction they have is rounding."""


class DenseTarget(PixelTarget):
    """C numbers for each pixel: float32 `[B, C, H, W]`, in the user's units; a pixel has all of them or no label."""

    noun = "maps of numbers"

    def read_one(self, values: np.ndarray) -> np.ndarray:
        """See `PixelTarget.read_one`: float32 `[H, W, C]`, NaN where there is no label."""
        wanted = len(self.summary.mean) if self._summary is not None else None
        if wanted is not None and values.shape[2] != wanted:
            raise MapError(f"has {values.shape[2]} numbers a pixel, but the first map has {wanted}")
        if self.spec.meaning == "normals" and values.shape[2] != 3:
            raise MapError(f"has {values.shape[2]} numbers a pixel, but a normal has three: x, y and z")
        if self.spec.meaning == "depth" and values.shape[2] > 1 and not (values == values[:, :, :1]).all():
            raise MapError(f"has {values.shape[2]} numbers a pixel, but a depth is one")
        if self.spec.meaning == "depth":
            values = values[:, :, :1]
        found = values.astype(np.float32)
        absent = ~np.isfinite(found)
        for number in self.spec.invalid:
            absent |= found == np.float32(number)
        scale, shift = self.spec.scale, self.spec.shift
        if self.spec.meaning == "normals" and values.dtype.kind == "u":
            # Files of whole numbers have -1 to 1 as 0 to the greatest number.
            scale, shift = 2 / np.iinfo(values.dtype).max, -1.0
        found = found * np.float32(scale) + np.float32(shift)
        gone = absent.any(axis=2)
        if self.spec.meaning == "normals":
            length = np.linalg.norm(found, axis=2)
            gone |= ~(length >= _LEAST_LENGTH)
            found = found / np.maximum(length, _LEAST_LENGTH)[:, :, None]
        elif self.spec.meaning == "depth":
            gone |= ~(found[:, :, 0] > 0)
        found[gone] = np.nan
        return found

    def blank(self, rows: int) -> Tensor:
        """See `PixelTarget.blank`."""
        return torch.full((rows, *self.size, len(self.summary.mean)), torch.nan)

    def arranged(self, kept: Tensor) -> Tensor:
        """See `PixelTarget.arranged`."""
        return kept.movedim(-1, 1).contiguous()

    def valid(self, kept: Tensor) -> Tensor:
        """See `PixelTarget.valid`."""
        return ~kept[:, 0].isnan()

    def moved(self, kept: Tensor, geometry: Geometry) -> Tensor:
        """See `PixelTarget.moved`: numbers of the nearest pixels, never means of what lies on two sides of an edge."""
        found = geometry.nearest(kept, float("nan"))
        zoom = torch.from_numpy(geometry.zoom).float()[:, None, None]
        if self.spec.meaning == "depth":
            return found / zoom[:, None]
        return self._turned(found, geometry, zoom) if self.spec.meaning == "normals" else found

    def made(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """See `PixelTarget.made`."""
        mask = self.valid(kept)
        return kept.masked_fill(~mask[:, None], 0.0), mask

    def tally(self) -> Tally:
        """See `Target.tally`."""
        return _DenseTally(len(self.summary.mean))

    @property
    def row_bytes(self) -> int:
        """See `Target.row_bytes`."""
        return 4 * self.size[0] * self.size[1] * len(self.summary.mean)

    def _turned(self, normals: Tensor, geometry: Geometry, zoom: Tensor) -> Tensor:
        """Normals of what is seen from nearer by the zoom, and turned and mirrored as the image is.

        Of a surface whose depth is divided by s while what lies across stays, normals are `(x, y, s z)`, made unit.
        """
        turns = geometry.turns.copy()
        if self.spec.upwards:
            turns[:, [0, 1], [1, 0]] *= -1
        across = torch.einsum("bij,bjhw->bihw", torch.from_numpy(turns).float(), normals[:, :2])
        found = torch.cat([across, (normals[:, 2] * zoom)[:, None]], dim=1)
        return F.normalize(found, dim=1)

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        moments: Moments | None = None
        labelled = 0
        for positions, part in table.batches(self.spec.columns, rows, size=AT_ONCE):
            for place, values in self._maps(part, positions, table):
                if moments is None:
                    moments = Moments(values.shape[2])
                elif values.shape[2] != len(moments.mean):
                    raise UserError(
                        f"{table.locate(int(positions[place]))}, column '{self.spec.columns[0]}' (task '{self.task}'): "
                        f"the map has {values.shape[2]} numbers a pixel, but the first one has {len(moments.mean)}."
                    )
                known = values[~np.isnan(values[:, :, 0])].astype(np.float64)
                labelled += bool(len(known))
                moments.add(np.log(known) if self.spec.logarithm else known)
        self._tell_unreadable()
        self._require_labels(labelled, table, rows)
        assert moments is not None
        if not moments.std.any():
            log.warning("Task '%s': all valid pixels of the training part have the same value.", self.task)
        return TargetSummary(
            labelled=labelled,
            mean=tuple(moments.mean.tolist()),
            std=tuple(np.where(moments.std > 0, moments.std, 1.0).tolist()),
        )

    def _require_labels(self, labelled: int, table: Table, rows: np.ndarray) -> None:
        if labelled == 0 and self.spec.meaning == "depth":
            raise UserError(
                f"Task '{self.task}': no pixel of the maps in '{self.spec.columns[0]}' in the training part of "
                f"{table.source} has a depth above 0, so there is nothing to learn from."
            )
        super()._require_labels(labelled, table, rows)


class _DenseTally(Tally):
    """Mean and standard deviation of each channel, and the share of the pixels that have a label."""

    def __init__(self, channels: int) -> None:
        self._moments = Moments(channels)
        self._pixels = 0

    def add(self, values: Encoded) -> None:
        """See `Tally.add`."""
        assert isinstance(values, Dense)
        kept = values.tensors["target"].movedim(1, -1).flatten(0, -2)
        self._pixels += len(kept)
        self._moments.add(kept.double().numpy())

    def __str__(self) -> str:
        numbers = zip(self._moments.mean, self._moments.std, strict=True)
        share = 100 * int(self._moments.count[0]) / max(self._pixels, 1)
        texts: Sequence[str] = [f"mean {mean:.4g}, std {std:.4g}" for mean, std in numbers]
        return f"{'; '.join(texts)} ({share:.0f} % of the pixels)"
