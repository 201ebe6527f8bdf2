"""How the positions of images move when they are augmented, for whatever lies on the images: masks, boxes, depth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """An affine map for each of B images of one size.

    The point `(x, y)` of a changed image shows what was at `A (x, y, 1)` of the image before. Coordinates are in
    pixels, and the middle of the first pixel is at (0.5, 0.5).

    Attributes:
        matrices: float64 `[B, 2, 3]`: A for each image.
        size: Height and width.
    """

    matrices: np.ndarray
    size: tuple[int, int]

    @classmethod
    def unmoved(cls, images: int, size: tuple[int, int]) -> Self:
        """That of images that stay as they are."""
        return cls(np.tile(np.eye(2, 3), (images, 1, 1)), size)

    def select(self, positions: np.ndarray) -> Geometry:
        """That of the images at `positions` (int64)."""
        return Geometry(self.matrices[positions], self.size)

    def then(self, matrices: np.ndarray) -> Geometry:
        """This, and then another change.

        Args:
            matrices: float64 `[B, 2, 3]`: the other one's, from positions after it to positions before it.
        """
        return Geometry(_product(self.matrices, matrices), self.size)

    @cached_property
    def inverse(self) -> Geometry:
        """What undoes it; its matrices lead from positions before to positions after."""
        linear = np.linalg.inv(self.matrices[:, :, :2])
        return Geometry(np.concatenate([linear, -linear @ self.matrices[:, :, 2:]], axis=2), self.size)

    def points(self, before: np.ndarray) -> np.ndarray:
        """Where points have moved.

        Args:
            before: float64 `[B, N, 2]`: x and y of N points in each image before; they may lie outside of it.

        Returns:
            float64 `[B, N, 2]`: where each is afterwards.
        """
        matrices = self.inverse.matrices
        after: np.ndarray = before @ matrices[:, :, :2].transpose(0, 2, 1) + matrices[:, None, :, 2]
        return after

    @cached_property
    def zoom(self) -> np.ndarray:
        """float64 `[B]`: how many times as long things look afterwards."""
        factors: np.ndarray = 1 / np.sqrt(np.abs(np.linalg.det(self.matrices[:, :, :2])))
        return factors

    @cached_property
    def turns(self) -> np.ndarray:
        """float64 `[B, 2, 2]`: how directions `(x, y)` turn and are mirrored: orthogonal, y pointing down."""
        turned: np.ndarray = self.inverse.matrices[:, :, :2] / self.zoom[:, None, None]
        return turned

    def nearest(self, values: Tensor, fill: float) -> Tensor:
        """Changed maps, each pixel with the value of the pixel that lies nearest; exact for flips and whole pixels.

        Args:
            values: `[B, ..., H, W]`, of any type.
            fill: What moves in.
        """
        height, width = self.size
        source = self._sources()
        column, row = source[..., 0].floor().long(), source[..., 1].floor().long()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten(1)
        between = [1] * (values.ndim - 3)
        flat = values.flatten(-2)
        moved = flat.gather(-1, place.view(len(values), *between, -1).expand(flat.shape)).view(values.shape)
        return moved.masked_fill(~inside.view(len(values), *between, height, width), fill)

    def bilinear(self, images: Tensor) -> Tensor:
        """Changed images, each pixel the mean of the four that lie around it; black moves in.

        Args:
            images: uint8 `[B, C, H, W]`.
        """
        height, width = self.size
        grid = 2 * self._sources() / torch.tensor([width, height], dtype=torch.float64) - 1
        sampled = F.grid_sample(images.float(), grid.float(), mode="bilinear", align_corners=False)
        return sampled.round_().clamp_(0, 255).to(images.dtype)

    def _sources(self) -> Tensor:
        """float64 `[B, H, W, 2]`: the point that each pixel's middle shows."""
        height, width = self.size
        matrices = torch.from_numpy(self.matrices)
        across = torch.arange(width, dtype=torch.float64) + 0.5
        down = torch.arange(height, dtype=torch.float64) + 0.5
        step_x, step_y, start = matrices.unbind(2)
        # In float64, a flip and whole pixels lead from the middle of a pixel exactly to that of another.
        return (
            start[:, None, None]
            + step_y[:, None, None] * down[None, :, None, None]
            + step_x[:, None, None] * across[None, None, :, None]
        )


def _product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`[B, 2, 3]`: the point that `first` makes of what `second` makes of a point."""
    linear = first[:, :, :2] @ second[:, :, :2]
    shift = first[:, :, :2] @ second[:, :, 2:] + first[:, :, 2:]
    return np.concatenate([linear, shift], axis=2)


def flips(mirrored: np.ndarray, width: int) -> np.ndarray:
    """`[B, 2, 3]`: the maps of mirroring some images (bool `[B]`), left to right."""
    matrices = np.tile(np.eye(2, 3), (len(mirrored), 1, 1))
    matrices[mirrored, 0, 0] = -1
    matrices[mirrored, 0, 2] = width
    return matrices


def shifts(right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """`[B, 2, 3]`: the maps by which each image shows what was so many pixels to the right and below."""
    matrices = np.tile(np.eye(2, 3), (len(right), 1, 1))
    matrices[:, 0, 2] = right
    matrices[:, 1, 2] = down
    return matrices


def zooms(factors: np.ndarray, places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`[B, 2, 3]`: the maps that enlarge images, and cut off or leave blank what that makes too much or too little.

    Args:
        factors: `[B]`, above 0: how many times as long things are afterwards.
        places: `[B, 2]`, from 0 to 1: where the part is that is seen of a larger image, or where a smaller image is
            put; 0 is left or top.
        size: Height and width.
    """
    sides = np.array([size[1], size[0]], dtype=np.float64)
    start = places * (1 - factors[:, None]) * sides
    linear = np.eye(2) / factors[:, None, None]
    return np.concatenate([linear, (-start / factors[:, None])[:, :, None]], axis=2)


def rotations(degrees: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`[B, 2, 3]`: the maps that turn images about their middle, clockwise (`degrees` `[B]`)."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)
    middle = np.array([[size[1] / 2], [size[0] / 2]])
    return np.concatenate([linear, middle - linear @ middle], axis=2)
