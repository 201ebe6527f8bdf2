"""What targets have in common that say something of each pixel of an image."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from polytask.data.encoded import Dense, Encoded
from polytask.data.geometry import Geometry
from polytask.data.image_sizes import image_size
from polytask.data.inputs.cells import UnreadableError, file_of, holds_files, map_cells
from polytask.data.pixel_cells import MapError, Size, read_map, resized, same_shape
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError, listing
from polytask.labels import TargetSpec
from polytask.pixels import PixelValues
from polytask.shapes import ImageShape

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input

log = logging.getLogger("polytask")

Convert = Callable[[np.ndarray], np.ndarray]

AT_ONCE = 64
"""Rows that are looked at together before it is known how large they are."""


class PixelTarget(Target):
    """A map a row, on the images of one input: it has their size, and moves as they do.

    A map may be larger or smaller than the image it belongs to where both have the same shape; it gets the size that
    the input gives to images, each pixel taking the value of the nearest one.
    """

    noun: ClassVar[str]
    """What messages call the labels."""

    _input: str | None = None
    _column: str | None = None
    _pixels: Size | None = None

    def __init__(self, task: str, spec: TargetSpec) -> None:
        super().__init__(task, spec)
        self._unreadable: list[str] = []
        self._told: set[str] = set()

    @property
    def follows(self) -> str | None:
        """See `Target.follows`."""
        return self._input

    def follow(self, inputs: Mapping[str, Input]) -> None:
        """See `Target.follow`."""
        images = {name: source for name, source in inputs.items() if source.modality == "image"}
        wanted = self.spec.image
        found = [name for name, source in images.items() if wanted in ("", name, *source.columns)]
        if len(found) != 1:
            what = (
                f"there are several inputs of images: {listing(images)}"
                if len(found) > 1
                else "there is no input of images"
                if not images
                else f"'{wanted}' is none of the inputs of images ({listing(images)}), and no column of theirs"
            )
            raise UserError(
                f"Task '{self.task}': its {self.noun} lie on images, but {what}. Set the task's `image` to the "
                "input that they lie on."
            )
        self._input = found[0]
        self._column = images[found[0]].columns[0]
        shape = images[found[0]].shape
        assert isinstance(shape, ImageShape)
        self._pixels = (shape.height, shape.width)
        self._summary = replace(self.summary, image_size=self._pixels)

    @property
    def size(self) -> Size:
        """Height and width of the maps; after `follow`."""
        if self._pixels is None:
            raise RuntimeError(f"The target of the task '{self.task}' does not know yet which images it lies on.")
        return self._pixels

    def check(self, table: Table) -> None:
        """See `Target.check`."""
        super().check(table)
        storage = table.arrow(self.spec.columns[0]).type
        if not (holds_files(storage) or pa.types.is_binary(storage) or pa.types.is_null(storage)):
            raise UserError(
                f"{table.source}: the column '{self.spec.columns[0]}', the target of the task '{self.task}', holds "
                f"{storage}, not {self.noun}: paths, the bytes of files, or records with 'bytes' and 'path'."
            )

    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoded:
        """See `Target.read`."""
        kept = self.blank(len(rows))
        for place, values in self._maps(part, rows, table):
            self._require_shape(values.shape[:2], int(rows[place]), table)
            kept[place] = torch.from_numpy(np.ascontiguousarray(resized(values, self.size)))
        self._tell_unreadable()
        return Dense({"target": self.arranged(kept)})

    def known(self, values: Encoded) -> Tensor:
        """See `Target.known`: bool `[B, H, W]`."""
        return self.valid(_kept(values))

    def labels(self, values: Encoded, geometry: Geometry | None) -> tuple[Tensor, Tensor]:
        """See `Target.labels`."""
        kept = _kept(values)
        return self.made(kept if geometry is None else self.moved(kept, geometry))

    def labelled(self, part: pa.Table, rows: np.ndarray, table: Table) -> np.ndarray:
        """See `Target.labelled`; it may be asked before it is known which images the maps lie on."""
        found = np.zeros(len(rows), dtype=bool)
        for place, values in self._maps(part, rows, table):
            one = torch.from_numpy(np.ascontiguousarray(values))[None]
            found[place] = bool(self.valid(self.arranged(one)).any())
        return found

    def state_dict(self) -> dict[str, Any]:
        """See `Target.state_dict`."""
        place = {"input": self._input, "column": self._column, "pixels": list(self._pixels or ())}
        return {**super().state_dict(), **place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Target.load_state_dict`."""
        super().load_state_dict(state)
        self._input, self._column = state["input"], state["column"]
        self._pixels = (state["pixels"][0], state["pixels"][1])

    def restored(self, decoded: Mapping[str, Any], rows: np.ndarray, table: Table) -> Mapping[str, Any]:
        """See `Target.restored`: maps of the sizes of the rows' image files."""
        assert self._column is not None
        restored = []
        for row, found in zip(rows, decoded[""], strict=True):
            assert isinstance(found, PixelValues)
            try:
                size = image_size(table, int(row), self._column)
            except UserError:
                size = self.size  # a row that lacks this one of several inputs
            restored.append(replace(found, values=resized(found.values, size)))
        return {**decoded, "": restored}

    @abstractmethod
    def read_one(self, values: np.ndarray) -> np.ndarray:
        """What is kept of a file's map.

        Args:
            values: `[H, W, C]`, as the file has it.

        Returns:
            `[H, W]` or `[H, W, C]`.

        Raises:
            MapError: It is no such map.
        """

    @abstractmethod
    def blank(self, rows: int) -> Tensor:
        """What is kept of rows without a label, `[B, H, W]` or `[B, H, W, C]`."""

    def arranged(self, kept: Tensor) -> Tensor:
        """Kept maps, the channels before height and width."""
        return kept

    @abstractmethod
    def valid(self, kept: Tensor) -> Tensor:
        """Where kept maps have a label, bool `[B, H, W]`."""

    @abstractmethod
    def moved(self, kept: Tensor, geometry: Geometry) -> Tensor:
        """Kept maps, moved as the images are; what moves in has no label."""

    @abstractmethod
    def made(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Target and mask of kept maps, as in `Batch`."""

    def _tell_unreadable(self) -> None:
        """Say how many rows count as unlabelled, each of them once."""
        new = [problem for problem in dict.fromkeys(self._unreadable) if problem not in self._told]
        self._told.update(new)
        self._unreadable = []
        if new:
            log.warning(
                "Task '%s': %d rows have a map that cannot be read, and count as unlabelled. The first one: %s.",
                self.task,
                len(new),
                new[0],
            )

    def _maps(
        self, part: pa.Table, rows: np.ndarray, table: Table, convert: Convert | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """What is kept of each row that has a map, at its own size, and its place among the rows.

        Args:
            part: The rows' columns.
            rows: int64 `[B]`: their positions in `table`.
            table: Where they come from.
            convert: In place of `read_one`.

        Raises:
            UserError: A map cannot be read, and that is an error.
        """
        convert = self.read_one if convert is None else convert
        column = self.spec.columns[0]
        cells = part.column(column).to_pylist()
        found: list[np.ndarray | None] = [None] * len(cells)
        errors: list[Exception | None] = [None] * len(cells)

        def read(place: int, cell: Any) -> str | None:
            if cell is None or cell in ("", b"") or (isinstance(cell, dict) and not any(cell.values())):
                return None
            source, name = file_of(cell, table.folder_of(int(rows[place]), column), "map")
            try:
                values = read_map(source, name)
                try:
                    found[place] = convert(values)
                except MapError as error:
                    raise MapError(f"the map {name} {error}") from error
            except (MapError, UnreadableError) as error:
                errors[place] = error
                return str(error)
            return None

        problems = map_cells(read, cells)
        failed = [(place, problem) for place, problem in enumerate(problems) if problem is not None]
        if failed and self.spec.on_error == "error":
            place, problem = failed[0]
            raise UserError(
                f"{table.locate(int(rows[place]))}, column '{column}' (task '{self.task}'): {problem}. Mend the file, "
                "empty the cell, or set on_error: skip, with which every row of this kind is one without a label."
            ) from errors[place]
        self._unreadable += [f"{table.locate(int(rows[place]))}: {problem}" for place, problem in failed]
        for place, values in enumerate(found):
            if values is not None:
                yield place, values

    def _require_shape(self, size: Sequence[int], row: int, table: Table) -> None:
        """Make sure that a map has the shape of its image.

        Raises:
            UserError: It has another one.
        """
        own = (size[0], size[1])
        if own == self.size or self._column is None or not table.has(self._column):
            return
        try:
            image = image_size(table, row, self._column)
        except UserError:
            return  # said by the input that reads the image
        if not same_shape(own, image):
            raise UserError(
                f"{table.locate(row)}, column '{self.spec.columns[0]}' (task '{self.task}'): the map is {own[0]} x "
                f"{own[1]} pixels (height x width), but its image is {image[0]} x {image[1]}, another shape. A map may "
                "be larger or smaller than its image, but has to show all of it and no more."
            )


def _kept(values: Encoded) -> Tensor:
    assert isinstance(values, Dense)
    return values.tensors["target"]
