"""Random changes of training images, each drawn for its row and epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.data.geometry import Geometry, flips, rotations, shifts, zooms
from polytask.data.inputs.draws import Draws
from polytask.errors import UserError, require

_FLIP, _DOWN, _RIGHT, _TRANSFORM, _SCALE, _LEFT, _TOP, _ROTATE = range(8)


@dataclass(frozen=True)
class Augmentation:
    """Which changes are made.

    `flip` and `crop` are the gentle ones (see `Draws.gentle`): the weak augmentation of FixMatch.

    Attributes:
        flip: Mirror half of the images, left to right.
        crop: Pixels by which an image is moved at most, up or down and left or right; black moves in.
        color: How far brightness, contrast and saturation change at most, as a share.
        rand_augment: Two random operations each, of RandAugment (Cubuk et al., NeurIPS 2020).
        scale: The least and the most by which an image is enlarged; None: not at all.
        rotate: Degrees by which an image is turned at most.

    Raises:
        UserError: A value is out of range.
    """

    flip: bool = False
    crop: int = 0
    color: float = 0.0
    rand_augment: bool = False
    scale: tuple[float, float] | None = None
    rotate: float = 0.0

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise UserError(f"crop is {self.crop} pixels, but must be at least 0.")
        if not 0 <= self.color <= 1:
            raise UserError(f"color is {self.color}, but must be between 0 and 1.")
        if not 0 <= self.rotate <= 180:
            raise UserError(f"rotate is {self.rotate}, but must be between 0 and 180 degrees.")

    def __bool__(self) -> bool:
        return self.moves or self.color > 0 or self.rand_augment

    @property
    def moves(self) -> bool:
        """Whether positions move in a way that `geometry` tells."""
        return self.flip or self.crop > 0 or self._warps

    @property
    def _warps(self) -> bool:
        """Whether pixels come to lie between others."""
        return self.scale is not None or self.rotate > 0

    def apply(self, images: Tensor, rows: np.ndarray, draws: Draws) -> Tensor:
        """Changed images.

        Args:
            images: uint8 `[B, C, H, W]`.
            rows: int64 `[B]`: the rows' positions in their table.
            draws: Random numbers.
        """
        if self._warps and not draws.gentle:
            moved = self.geometry(rows, draws, (images.shape[-2], images.shape[-1]))
            assert moved is not None
            images = moved.bilinear(images)
        else:
            images = self._moved_by_pixels(images, rows, draws)
        if (self.color or self.rand_augment) and not draws.gentle:
            images = _transformed(images, draws.bits(rows, _TRANSFORM), self.transforms())
        return images

    def geometry(self, rows: np.ndarray, draws: Draws, size: tuple[int, int]) -> Geometry | None:
        """How the positions of images move in `apply`; None: not at all.

        Mirrored first, then enlarged, turned and moved. Of the changes that are not gentle, `rand_augment` moves things
        too, in ways that are not told here.

        Args:
            rows: int64 `[B]`: as in `apply`.
            draws: As in `apply`.
            size: The images' height and width.
        """
        if not (self.flip or self.crop or (self._warps and not draws.gentle)):
            return None
        moved = Geometry.unmoved(len(rows), size)
        if self.flip:
            moved = moved.then(flips(draws.uniform(rows, _FLIP) < 0.5, size[1]))
        if not draws.gentle:
            if self.scale is not None:
                least, most = np.log(self.scale)
                factors = np.exp(least + (most - least) * draws.uniform(rows, _SCALE))
                places = np.stack([draws.uniform(rows, _LEFT), draws.uniform(rows, _TOP)], axis=1)
                moved = moved.then(zooms(factors, places, size))
            if self.rotate:
                moved = moved.then(rotations(self.rotate * (2 * draws.uniform(rows, _ROTATE) - 1), size))
        if self.crop:
            moved = moved.then(shifts(*(_pixels(rows, draws, each, self.crop) - self.crop for each in (_RIGHT, _DOWN))))
        return moved

    def _moved_by_pixels(self, images: Tensor, rows: np.ndarray, draws: Draws) -> Tensor:
        """What flips and whole pixels make of images, without a look at where their points go."""
        if self.flip:
            mirrored = torch.from_numpy(draws.uniform(rows, _FLIP) < 0.5)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if self.crop:
            images = _moved(images, rows, draws, self.crop)
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


def zoom_range(scale: Sequence[float] | None) -> tuple[float, float] | None:
    """The least and the most by which images are enlarged, as a user gives them.

    Raises:
        UserError: They are not two numbers above 0, the least first.
    """
    if scale is None:
        return None
    numbers = [float(number) for number in scale]
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] < float("inf"):
        raise UserError(
            f"scale is {list(scale)}. Allowed: [least, most], the factors by which an image is enlarged, both above 0: "
            "[0.8, 1.5], say."
        )
    return numbers[0], numbers[1]


def _pixels(rows: np.ndarray, draws: Draws, stream: int, most: int) -> np.ndarray:
    """int64 `[B]`, from 0 to `2 most`."""
    return (draws.uniform(rows, stream) * (2 * most + 1)).astype(np.int64)


def _moved(images: Tensor, rows: np.ndarray, draws: Draws, most: int) -> Tensor:
    count, channels, height, width = images.shape
    down, right = (torch.from_numpy(_pixels(rows, draws, stream, most)) for stream in (_DOWN, _RIGHT))
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
