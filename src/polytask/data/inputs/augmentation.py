"""Random changes of training images, each drawn for its row and epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.data.inputs.draws import Draws
from polytask.errors import UserError, require

_FLIP, _DOWN, _RIGHT, _TRANSFORM = range(4)


@dataclass(frozen=True)
class Augmentation:
    """Which changes are made.

    `flip` and `crop` are the gentle ones (see `Draws.gentle`): the weak augmentation of FixMatch.

    Attributes:
        flip: Mirror half of the images, left to right.
        crop: Pixels by which an image is moved at most, up or down and left or right; black moves in.
        color: How far brightness, contrast and saturation change at most, as a share.
        rand_augment: Two random operations each, of RandAugment (Cubuk et al., NeurIPS 2020).

    Raises:
        UserError: A value is out of range.
    """

    flip: bool = False
    crop: int = 0
    color: float = 0.0
    rand_augment: bool = False

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise UserError(f"crop is {self.crop} pixels, but must be at least 0.")
        if not 0 <= self.color <= 1:
            raise UserError(f"color is {self.color}, but must be between 0 and 1.")

    def __bool__(self) -> bool:
        return self.flip or self.crop > 0 or self.color > 0 or self.rand_augment

    def apply(self, images: Tensor, rows: np.ndarray, draws: Draws) -> Tensor:
        """Changed images.

        Args:
            images: uint8 `[B, C, H, W]`.
            rows: int64 `[B]`: the rows' positions in their table.
            draws: Random numbers.
        """
        if self.flip:
            mirrored = torch.from_numpy(draws.uniform(rows, _FLIP) < 0.5)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if self.crop:
            images = _moved(images, rows, draws, self.crop)
        if (self.color or self.rand_augment) and not draws.gentle:
            images = _transformed(images, draws.bits(rows, _TRANSFORM), self.transforms())
        return images

    def transforms(self) -> list[Callable[[Tensor], Tensor]]:
        """The changes that torchvision makes.

        Raises:
            MissingExtra: torchvision is needed, but not installed.
        """
        if not (self.color or self.rand_augment):
            return []
        v2 = require("torchvision.transforms.v2", extra="vision", purpose="Image augmentation by color or rand_augment")
        made: list[Callable[[Tensor], Tensor]] = []
        if self.rand_augment:
            made.append(v2.RandAugment())
        if self.color:
            made.append(v2.ColorJitter(self.color, self.color, self.color))
        return made


def _moved(images: Tensor, rows: np.ndarray, draws: Draws, most: int) -> Tensor:
    count, channels, height, width = images.shape
    down, right = (
        torch.from_numpy((draws.uniform(rows, stream) * (2 * most + 1)).astype(np.int64)) for stream in (_DOWN, _RIGHT)
    )
    padded = F.pad(images, (most, most, most, most))
    return padded[
        torch.arange(count)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        (down[:, None] + torch.arange(height))[:, None, :, None],
        (right[:, None] + torch.arange(width))[:, None, None, :],
    ]


def _transformed(images: Tensor, seeds: np.ndarray, transforms: list[Callable[[Tensor], Tensor]]) -> Tensor:
    # torchvision draws from torch's global generator: seed it for each image, and leave it as it was found.
    generator = torch.default_generator
    before = generator.get_state()
    changed = []
    try:
        for image, seed in zip(images, seeds, strict=True):
            generator.manual_seed(int(seed >> np.uint64(1)))
            for transform in transforms:
                image = transform(image)  # noqa: PLW2901
            changed.append(image)
    finally:
        generator.set_state(before)
    return torch.stack(changed)
