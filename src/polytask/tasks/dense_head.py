"""The layers of a task's own that make an answer for each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from polytask.errors import UserError, listing
from polytask.features import Features, FeatureShape
from polytask.tasks.dense_decoders import DeepLabDecoder, FPNDecoder, UNetDecoder

DenseDecoder = Literal["fpn", "unet", "deeplab"]

_DECODERS: Mapping[str, type[FPNDecoder | UNetDecoder | DeepLabDecoder]] = {
    "fpn": FPNDecoder,
    "unet": UNetDecoder,
    "deeplab": DeepLabDecoder,
}
_FINEST = {"fpn": 4, "unet": 1, "deeplab": 4}
"""The finest stride that a decoder reads by default: U-Net goes as far up as the encoder came down."""


class DenseHead(nn.Module):
    """A decoder over an encoder's maps, a linear map at each position, and enlargement to the size of the image.

    Args:
        shape: What the encoder gives.
        outputs: Numbers for each pixel.
        decoder: The decoder's name.
        width: The decoder's channels.
        stride: The finest stride that is read; None: the decoder's own.
        size: Height and width of the images; None: the map's, times its stride.
        dropout: Probability of dropping a channel before the linear map.
        task: The task's name, for messages.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(
        self,
        shape: FeatureShape,
        outputs: int,
        *,
        decoder: DenseDecoder,
        width: int,
        stride: int | None,
        size: Sequence[int] | None,
        dropout: float,
        task: str,
    ) -> None:
        super().__init__()
        if decoder not in _DECODERS:
            raise UserError(f"Task '{task}': there is no head '{decoder}'. Allowed: {listing(get_args(DenseDecoder))}.")
        if width < 1:
            raise UserError(f"Task '{task}': width is {width}, but must be at least 1.")
        if not 0 <= dropout < 1:
            raise UserError(f"Task '{task}': dropout is {dropout}, but must be at least 0 and below 1.")
        if stride is not None and stride < 1:
            raise UserError(f"Task '{task}': stride is {stride}, but must be at least 1.")
        shapes = (*shape.levels, shape)
        finest = _FINEST[decoder] if stride is None else stride
        self._first = min(len(shapes) - 1, sum(each.stride < finest for each in shapes))
        read = shapes[self._first :]
        self._stride = read[0].stride
        self._size = None if size is None else (size[0], size[1])
        made = _DECODERS[decoder](read, width)
        self.decoder = made
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.answer = nn.Conv2d(made.width, outputs, 1)

    def forward(self, features: Features) -> Tensor:
        """The encoder's maps to `[B, outputs, H, W]`."""
        maps = (*features.levels, features.values)[self._first :]
        found: Tensor = self.answer(self.dropout(self.decoder(maps)))
        height, width = found.shape[-2:]
        size = (height * self._stride, width * self._stride) if self._size is None else self._size
        if size == (height, width):
            return found
        return F.interpolate(found, size, mode="bilinear", align_corners=False)
