"""Images in a column, as pixels."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from polytask.data.encoded import Dense, Encoded, Encoding
from polytask.data.geometry import Geometry
from polytask.data.inputs.augmentation import Augmentation, zoom_range
from polytask.data.inputs.cells import Cell, UnreadableError, holds_files, map_cells, problem_with, unreadable
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.image_decoding import Channels, decode
from polytask.data.inputs.input import Input, rows_at_once
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError
from polytask.shapes import ImageShape

Numbers = tuple[float, ...]
Normalization = Literal["imagenet", "dataset"] | Sequence[float | Sequence[float]]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SAMPLE_ROWS = 4096
_SAMPLE_BYTES = 256 * 2**20


class ImageInput(Input):
    """Images as float32 `[B, C, H, W]`.

    A cell holds a path (relative ones start at the table's folder), an image file's bytes, or a record of both as
    Hugging Face data sets have it. Augmentation (`flip`, `crop`, `scale`, `rotate`, `color`, `rand_augment`) happens in
    training only. What lies on the images, such as masks, boxes and depth, moves with them; `rand_augment` is not for
    that.

    Args:
        column: The column.
        size: Height and width in pixels that images are stretched to, or one number for both; None: the size that all
            training images have.
        channels: 1 for grey images, 3 for colour; images are converted.
        normalize: What is taken off each channel, and by what it is divided: `dataset`: mean and standard deviation of
            the training images (of a sample of 4,096 where there are more); `imagenet`: those of ImageNet, for
            pretrained colour encoders; or `[mean, std]`, each a number or one number a channel, for pixels from 0 to 1.
        flip: Mirror half of the images, left to right.
        crop: Pixels by which an image is moved at most, up or down and left or right; black moves in.
        scale: The least and the most by which an image is enlarged, `[0.8, 1.5]` say, both sides alike: a random part
            of a larger image is seen, and a smaller one lies in black.
        rotate: Degrees by which an image is turned at most, to either side.
        color: How far brightness, contrast and saturation change at most, as a share from 0 to 1.
        rand_augment: Two random operations each, of RandAugment (Cubuk et al., NeurIPS 2020).
        on_error: What becomes of a row without a readable image: `error`, or `skip`: it is left out, and logged.

    Raises:
        UserError: A parameter is out of range.
    """

    modality: ClassVar[Literal["image"]] = "image"

    def __init__(
        self,
        column: str = "image",
        *,
        size: int | Sequence[int] | None = None,
        channels: Channels = 3,
        normalize: Normalization = "dataset",
        flip: bool = False,
        crop: int = 0,
        scale: Sequence[float] | None = None,
        rotate: float = 0.0,
        color: float = 0.0,
        rand_augment: bool = False,
        on_error: Literal["error", "skip"] = "error",
    ) -> None:
        self.column = column
        self.channels = channels
        self.augmentation = Augmentation(flip, crop, color, rand_augment, zoom_range(scale), rotate)
        self.on_error = on_error
        self._wanted = _size(size)
        self._normalize = normalize
        self._size = self._wanted
        self._mean: Numbers = ()
        self._std: Numbers = ()
        if channels not in (1, 3):
            raise UserError(f"channels is {channels}. Allowed: 1 (grey), 3 (colour).")
        if normalize == "imagenet" and channels == 1:
            raise UserError("normalize: imagenet is for colour images (channels: 3). Use 'dataset' for grey ones.")
        if not isinstance(normalize, str):
            _mean_std(normalize, channels)

    @property
    def named(self) -> tuple[str, ...]:
        """See `Input.named`."""
        return (self.column,)

    @property
    def shape(self) -> ImageShape:
        """See `Input.shape`."""
        return ImageShape(self.channels, *self._fitted_size)

    @property
    def standard(self) -> tuple[Numbers, Numbers]:
        """What is taken off each channel of pixels from 0 to 1, and by what it is divided; after `fit`."""
        return self._mean, self._std

    @property
    def augments(self) -> bool:
        """See `Input.augments`."""
        return bool(self.augmentation)

    def geometry(self, rows: np.ndarray, draws: Draws | None) -> Geometry | None:
        """See `Input.geometry`."""
        return None if draws is None else self.augmentation.geometry(rows, draws, self._fitted_size)

    @property
    def moves_untold(self) -> str | None:
        """See `Input.moves_untold`."""
        return "rand_augment" if self.augmentation.rand_augment else None

    def resolve(self, table: Table, reserved: Collection[str]) -> None:
        """See `Input.resolve`."""
        super().resolve(table, reserved)
        self.augmentation.transforms()

    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """See `Input.fit`."""
        sample = rows
        if len(rows) > _SAMPLE_ROWS:
            sample = np.sort(np.random.default_rng(0).choice(rows, _SAMPLE_ROWS, replace=False))
        if self._wanted is None:
            self._size = self._first_size(table, sample)
        if self._normalize == "dataset":
            self._mean, self._std = self._statistics(table, sample)
        elif self._normalize == "imagenet":
            self._mean, self._std = _IMAGENET
        else:
            self._mean, self._std = _mean_std(self._normalize, self.channels)

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """See `Input.encode`."""
        height, width = self._fitted_size
        images = np.zeros((len(rows), self.channels, height, width), dtype=np.uint8)

        def read(position: int, cell: Cell) -> str | None:
            try:
                pixels = decode(cell, table.folder_of(int(rows[position]), self.column), self.channels, self._wanted)
            except UnreadableError as error:
                return problem_with(error, cell, int(rows[position]), self.column, table)
            if pixels.shape != images.shape[1:]:
                raise UserError(
                    f"{table.locate(int(rows[position]))}: the image is {_by(pixels.shape[1:])} pixels (height x "
                    f"width), but the first training image is {_by((height, width))}. Set size: [{height}, {width}], "
                    "say, to stretch all images to one size."
                )
            images[position] = pixels
            return None

        problems = map_cells(read, self._cells(part, table))
        failures = {int(row): problem for row, problem in zip(rows, problems, strict=True) if problem is not None}
        if failures and self.on_error == "error":
            row, problem = next(iter(failures.items()))
            raise unreadable(problem, row, self.column, table)
        return Encoding(Dense({"images": torch.from_numpy(images)}), failures)

    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> Tensor:
        """See `Input.collate`."""
        assert isinstance(values, Dense)
        images = values.tensors["images"]
        if draws is not None and self.augmentation:
            images = self.augmentation.apply(images, rows, draws)
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self._mean, self._std))
        return images.float().sub_(255 * mean).div_(255 * std)

    def shown(self, values: Tensor) -> np.ndarray:
        """Images as `collate` gave them, back in colours: uint8 `[B, H, W, 3]`."""
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self._mean, self._std))
        pixels = (values.float().cpu() * std + mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
        return pixels.expand(-1, 3, -1, -1).movedim(1, -1).contiguous().numpy()

    @property
    def row_bytes(self) -> int:
        """See `Input.row_bytes`."""
        return self.channels * math.prod(self._fitted_size)

    def state_dict(self) -> dict[str, Any]:
        """See `Input.state_dict`."""
        return {
            "columns": list(self.columns),
            "size": list(self._fitted_size),
            "mean": list(self._mean),
            "std": list(self._std),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Input.load_state_dict`."""
        self.columns = tuple(state["columns"])
        self._size = (state["size"][0], state["size"][1])
        self._mean, self._std = tuple(state["mean"]), tuple(state["std"])

    @property
    def _fitted_size(self) -> tuple[int, int]:
        if self._size is None:
            raise RuntimeError(f"The image input of the column '{self.column}' is not fitted yet.")
        return self._size

    def _cells(self, part: pa.Table, table: Table) -> list[Cell]:
        column = part.column(self.column)
        if not (holds_files(column.type) or pa.types.is_null(column.type)):
            raise UserError(
                f"{table.source}: the column '{self.column}' holds {column.type}, not images: paths, the bytes of "
                "image files, or records with 'bytes' and 'path'."
            )
        cells: list[Cell] = column.to_pylist()
        return cells

    def _first_size(self, table: Table, rows: np.ndarray) -> tuple[int, int]:
        problem = "there are no rows"
        for positions, part in table.batches([self.column], rows, size=16):
            for row, cell in zip(positions, self._cells(part, table), strict=True):
                try:
                    folder = table.folder_of(int(row), self.column)
                    _, height, width = decode(cell, folder, self.channels, None).shape
                except UnreadableError as error:
                    problem = problem_with(error, cell, int(row), self.column, table)
                    if self.on_error == "error":
                        raise unreadable(problem, int(row), self.column, table) from error
                    problem = f"{table.locate(int(row))}: {problem}"
                else:
                    return height, width
        raise UserError(f"None of the training images in '{self.column}' can be read; the last one: {problem}.")

    def _statistics(self, table: Table, rows: np.ndarray) -> tuple[Numbers, Numbers]:
        """Mean and standard deviation of each channel, for pixels from 0 to 1: exact over the images looked at."""
        counts = np.zeros((self.channels, 256), dtype=np.int64)
        most = max(1, _SAMPLE_BYTES // self.row_bytes)
        for positions, part in table.batches([self.column], rows[:most], size=rows_at_once(self)):
            values, failures, _ = self.encode(part, positions, table)
            assert isinstance(values, Dense)
            images = values.tensors["images"].numpy()[[int(row) not in failures for row in positions]]
            for channel in range(self.channels):
                counts[channel] += np.bincount(images[:, channel].ravel(), minlength=256)
        levels, total = np.arange(256) / 255, counts.sum(axis=1)
        if not total.all():
            raise UserError(f"{table.source}: none of the training images in '{self.column}' can be read.")
        mean = counts @ levels / total
        std = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total)
        return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def _size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    numbers = [size, size] if isinstance(size, int) else list(size)
    if len(numbers) != 2 or min(numbers) < 1:
        raise UserError(f"size is {size}. Allowed: [height, width] in pixels, one number for both, or null.")
    return numbers[0], numbers[1]


def _mean_std(given: Sequence[float | Sequence[float]], channels: int) -> tuple[Numbers, Numbers]:
    """The mean and standard deviation that the user gave, each one number a channel."""
    both = [tuple(map(float, part)) if isinstance(part, Sequence) else (float(part),) * channels for part in given]
    if len(both) != 2 or any(len(numbers) != channels for numbers in both) or min(both[1]) <= 0:
        raise UserError(
            f"normalize is {given}. Allowed: 'dataset', 'imagenet', or [mean, std]: each a number or a list of "
            f"{channels} (one a channel), for pixels from 0 to 1, with std above 0."
        )
    return both[0], both[1]


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]}"
