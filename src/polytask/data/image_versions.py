"""Random parts of images in random colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)
_GREY_SHARE = 0.2
_LEAST_SIDES, _MOST_SIDES = 3 / 4, 4 / 3


class ImageVersions:
    """Makes versions of standardised images: a part, mirrored or not, with other brightness, contrast and saturation.

    As in SimCLR (Chen et al., ICML 2020), but without blur, and hues stay; all images of a batch at once.

    Args:
        area: The least share of an image's area that is seen; sides are as 3:4 to 4:3.
        color: How far brightness, contrast and saturation change at most, as a share; above 0, a fifth of the colour
            images become grey.
        mean: What was taken off each channel, of pixels from 0 to 1.
        std: What each channel was then divided by.
    """

    def __init__(self, area: float, color: float, mean: Sequence[float], std: Sequence[float]) -> None:
        self.area, self.color = area, color
        self._mean, self._std = (torch.tensor(each).view(-1, 1, 1) for each in (mean, std))

    def of(self, images: Tensor, draw: Callable[[int], np.ndarray]) -> Tensor:
        """A version of each image.

        Args:
            images: Standardised, float32 `[B, C, H, W]`.
            draw: For the number of a stream, from 0 to 9: float64 `[B]` in [0, 1), one for each image.
        """
        numbers = [torch.from_numpy(draw(stream)).float() for stream in range(9)]
        parts = self._parts(images, numbers[:5])
        return self._colored(parts, numbers[5:]) if self.color else parts

    def _parts(self, images: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """A random part of each image, as large as the image was."""
        share = self.area + (1 - self.area) * draws[0]
        low, high = np.log(_LEAST_SIDES), np.log(_MOST_SIDES)
        sides = torch.exp(low + (high - low) * draws[1]) if self.area < 1 else torch.ones_like(share)
        width, height = (share * sides).sqrt().clamp(max=1), (share / sides).sqrt().clamp(max=1)
        # In the coordinates of `affine_grid` an image goes from -1 to 1.
        right, down = (1 - width) * (2 * draws[2] - 1), (1 - height) * (2 * draws[3] - 1)
        maps = torch.zeros(len(images), 2, 3)
        maps[:, 0, 0] = torch.where(draws[4] < 0.5, -width, width)
        maps[:, 1, 1] = height
        maps[:, 0, 2], maps[:, 1, 2] = right, down
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def _colored(self, images: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """Images with other colours."""
        bright, contrast, saturation = (1 + self.color * (2 * each - 1).view(-1, 1, 1, 1) for each in draws[:3])
        pixels = (images * self._std + self._mean) * bright
        middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = middle + (pixels - middle) * contrast
        if images.shape[1] == len(_GREY):
            grey = (pixels * torch.tensor(_GREY).view(-1, 1, 1)).sum(dim=1, keepdim=True)
            saturation = torch.where(draws[3].view(-1, 1, 1, 1) < _GREY_SHARE, 0.0, saturation)
            pixels = grey + (pixels - grey) * saturation
        return (pixels.clamp(0, 1) - self._mean) / self._std
