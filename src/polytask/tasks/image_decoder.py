"""From the vector of a row to an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

_START, _WIDTH, _LEAST = 8, 32, 16


class ImageDecoder(nn.Module):
    """A map of 8 x 8 positions from a linear layer, which convolutions make twice as large until it has the size.

    Args:
        width: Features of a row.
        channels: Channels of the image.
        size: Its height and width.
    """

    def __init__(self, width: int, channels: int, size: Sequence[int]) -> None:
        super().__init__()
        self.size = size[0], size[1]
        self.start = nn.Linear(width, _WIDTH * _START * _START)
        layers: list[nn.Module] = []
        side, features = _START, _WIDTH
        while side < max(size):
            wide = max(features // 2, _LEAST)
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(features, wide, 3, padding=1), nn.ReLU()]
            side, features = 2 * side, wide
        self.grow = nn.Sequential(nn.ReLU(), *layers)
        self.end = nn.Conv2d(features, channels, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        """`[B, D]` to `[B, C, H, W]`."""
        grown = self.grow(self.start(values).unflatten(1, (_WIDTH, _START, _START)))
        if grown.shape[-2:] != self.size:
            grown = F.interpolate(grown, size=self.size, mode="bilinear", align_corners=False)
        return self.end(grown)  # type: ignore[no-any-return]
