"""Two versions of each row, to be told from those of other rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from polytask.data.corrupted_target import donors, swapped
from polytask.data.image_versions import ImageVersions
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.image import ImageInput
from polytask.data.view_target import View, ViewTarget

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input

VERSIONS = 2
_STREAMS = 16
"""How many streams of random numbers a version has."""


class ContrastTarget(ViewTarget):
    """Two changed versions of each row; the target, float32 `[B]`, says nothing.

    Of a table, in each version another share of the values is taken from other rows (SCARF); of images, each is another
    part in other colours (SimCLR).
    """

    modalities = ("tabular", "image")
    _images: ImageVersions | None = None

    def view(self, value: Any, rows: np.ndarray, draws: Draws) -> View:
        """See `ViewTarget.view`."""
        versions = tuple(self._version(value, rows, draws, _STREAMS * number) for number in range(VERSIONS))
        return View(versions, torch.zeros(len(rows)), torch.ones(len(rows), dtype=torch.bool))

    def _version(self, value: Any, rows: np.ndarray, draws: Draws, first: int) -> Any:
        if not isinstance(value, Mapping):
            assert self._images is not None
            return self._images.of(value, lambda stream: draws.uniform(rows, self.stream(first + stream)))
        columns = value["numeric"].shape[1] + value["categorical"].shape[1]
        chosen: Tensor = torch.from_numpy(draws.grid(rows, self.stream(first), columns) < self.spec.share)
        return {**value, **swapped(value, chosen, donors(rows, draws, self.stream(first + 1), columns))}

    def _check(self, source: Input) -> None:
        if isinstance(source, ImageInput):
            self._images = ImageVersions(self.spec.area, self.spec.color, *source.standard)
