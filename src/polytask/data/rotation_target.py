"""Images turned by quarters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from polytask.data.inputs.draws import Draws
from polytask.data.view_target import View, ViewTarget
from polytask.errors import UserError
from polytask.shapes import ImageShape

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input

QUARTERS = 4


class RotationTarget(ViewTarget):
    """By how many quarters each image was turned, counter-clockwise: int64 `[B]`, 0 to 3, all as likely."""

    modalities = ("image",)

    def view(self, value: Any, rows: np.ndarray, draws: Draws) -> View:
        """See `ViewTarget.view`."""
        turns = torch.from_numpy((draws.bits(rows, self.stream(0)) % np.uint64(QUARTERS)).astype(np.int64))
        return View((turned(value, turns),), turns, torch.ones(len(turns), dtype=torch.bool))

    def _check(self, source: Input) -> None:
        shape = source.shape
        assert isinstance(shape, ImageShape)
        if shape.height != shape.width:
            raise UserError(
                f"Task '{self.task}' turns images by quarters, but those of the input '{self.spec.input}' are "
                f"{shape.height} x {shape.width} pixels (height x width), and would show by their sides how they were "
                f"turned. Make them square: inputs.{self.spec.input}.size: {min(shape.height, shape.width)}, say."
            )


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Square images `[B, C, H, H]`, each turned counter-clockwise by so many quarters, int64 `[B]`."""
    found = images.clone()
    for quarters in range(1, QUARTERS):
        some = turns % QUARTERS == quarters
        found[some] = torch.rot90(images[some], quarters, (2, 3))
    return found
