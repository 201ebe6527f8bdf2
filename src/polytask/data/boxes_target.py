"""Targets of boxes on images."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.boxes import Boxes
from polytask.data.box_cells import SIDES, Annotation, BoxError, read_cell
from polytask.data.box_rows import BoxRows
from polytask.data.class_names import in_order
from polytask.data.encoded import Encoded, Ragged
from polytask.data.geometry import Geometry
from polytask.data.image_sizes import image_size
from polytask.data.table import Table
from polytask.data.tallies import percent
from polytask.data.target import Tally, Target
from polytask.errors import UserError, closest, listing
from polytask.labels import TargetSummary
from polytask.shapes import ImageShape

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input

log = logging.getLogger("polytask")

_AT_ONCE = 4096
_QUANTILES = 33
_VISIBLE = 0.25
"""The least share of a box that has to stay in an image that is moved, for the box to stay."""


class BoxesTarget(Target):
    """Boxes on the images of one input, which move as the images do. Boxes that leave an image are cut off or go."""

    _input: str | None = None
    _pixels: tuple[int, int] | None = None

    @property
    def follows(self) -> str | None:
        """See `Target.follows`."""
        return self._input

    def follow(self, inputs: Mapping[str, Input]) -> None:
        """See `Target.follow`."""
        images = {name: source for name, source in inputs.items() if source.modality == "image"}
        found = [name for name, source in images.items() if self.spec.image in source.columns]
        if not found:
            raise UserError(
                f"Task '{self.task}': its boxes lie on the images of the column '{self.spec.image}', which no image "
                f"input reads. Set the task's `image_column` to the column of one: "
                f"{listing(column for source in images.values() for column in source.columns) or 'there is none'}."
            )
        self._input = found[0]
        shape = images[found[0]].shape
        assert isinstance(shape, ImageShape)
        self._pixels = (shape.height, shape.width)
        scale = (shape.height * shape.width) ** 0.5
        sizes = tuple(round(scale * size, 2) for size in self.summary.sizes)
        self._summary = replace(self.summary, sizes=sizes, image_size=self._pixels)

    @property
    def row_bytes(self) -> int:
        """See `Target.row_bytes`."""
        return 24 * 50

    def check(self, table: Table) -> None:
        """See `Target.check`."""
        super().check(table)
        if not table.has(self.spec.image):
            raise UserError(
                f"{table.source} has no column '{self.spec.image}' with the images that the boxes of the task "
                f"'{self.task}' lie on.{closest(self.spec.image, table.columns)} Set the task's `image_column` to one "
                f"of its columns: {listing(table.columns, limit=30)}."
            )

    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> BoxRows:
        """See `Target.read`."""
        return self._read(part, rows, table, {name: i for i, name in enumerate(self.summary.classes)})

    def known(self, values: Encoded) -> Tensor:
        """See `Target.known`."""
        assert isinstance(values, BoxRows)
        return torch.from_numpy(values.known)

    def labels(self, values: Encoded, geometry: Geometry | None) -> tuple[Boxes, Tensor]:
        """See `Target.labels`."""
        assert isinstance(values, BoxRows) and self._pixels is not None
        height, width = self._pixels
        found, counts = values.boxes.values, values.boxes.lengths
        boxes = found[:, :4].astype(np.float64) * [width, height, width, height]
        kept = np.ones(len(boxes), dtype=bool)
        if geometry is not None:
            owners = np.repeat(np.arange(len(counts)), counts)
            boxes, kept = moved_boxes(boxes, geometry.matrices[owners], geometry.size)
            counts = np.bincount(owners[kept], minlength=len(counts))
        target = Boxes(
            torch.from_numpy(boxes[kept].astype(np.float32)),
            torch.from_numpy(found[kept, 4].astype(np.int64)),
            torch.from_numpy(found[kept, 5] > 0),
            torch.from_numpy(counts.astype(np.int64)),
        )
        return target, torch.from_numpy(values.known)

    def tally(self) -> Tally:
        """See `Target.tally`."""
        return BoxTally(self.summary.classes)

    def restored(self, decoded: Mapping[str, Any], rows: np.ndarray, table: Table) -> Mapping[str, Any]:
        """See `Target.restored`: boxes in pixels of the image files, as JSON text; nothing for rows without images."""
        assert self._pixels is not None
        if not table.has(self.spec.image):
            return {}
        height, width = self._pixels
        texts: list[str | None] = []
        absent = pc.is_null(table.take(rows, [self.spec.image]).column(0)).to_pylist()
        for row, found, lacking in zip(rows, decoded[""], absent, strict=True):
            if lacking:
                texts.append(None)
                continue
            tall, wide = image_size(table, int(row), self.spec.image)
            factors = (wide / width, tall / height, wide / width, tall / height)
            scaled = [{s: round(each[s] * f, 2) for s, f in zip(SIDES, factors, strict=True)} for each in found]
            texts.append(json.dumps([{**each, **sides} for each, sides in zip(found, scaled, strict=True)]))
        return {**decoded, "": texts}

    def state_dict(self) -> dict[str, Any]:
        """See `Target.state_dict`."""
        return {**super().state_dict(), "input": self._input, "pixels": list(self._pixels or ())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Target.load_state_dict`."""
        super().load_state_dict(state)
        self._input = state["input"]
        self._pixels = (state["pixels"][0], state["pixels"][1])

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        numbers: dict[str, int] = {name: i for i, name in enumerate(self.spec.classes or ())}
        grows = self.spec.classes is None
        counts: Counter[int] = Counter()
        sizes, labelled, mended = [np.empty(0)], 0, np.zeros(2, dtype=np.int64)
        for positions, part in table.batches(self.spec.columns, rows, size=_AT_ONCE):
            found = self._read(part, positions, table, numbers, grows=grows)
            labelled += int(found.known.sum())
            mended += found.mended.sum(axis=0)
            boxes = found.boxes.values
            counts.update(boxes[:, 4].astype(np.int64).tolist())
            sizes.append(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])))
        if labelled == 0 or not counts:
            what = "is labelled" if labelled == 0 else f"has a box: all {labelled:,} labelled ones are empty"
            raise UserError(
                f"Task '{self.task}': none of the {len(rows):,} training rows of {table.source} {what} "
                f"('{self.spec.columns[0]}'), so there is nothing to learn from."
            )
        if mended.any():
            log.warning(
                "Task '%s': of %d boxes in the training part of %s, %d reach beyond their image and are cut off, and "
                "%d have no area within it and are left out.",
                self.task,
                counts.total() + mended[1],
                table.source,
                *mended.tolist(),
            )
        classes = tuple(numbers) if not grows else in_order(numbers)
        absent = [name for name in classes if not counts[numbers[name]]]
        if absent:
            log.warning("Task '%s': no training row has a box of the class %s.", self.task, listing(absent))
        quantiles = np.quantile(np.concatenate(sizes), np.linspace(0, 1, _QUANTILES))
        return TargetSummary(
            labelled=labelled,
            classes=classes,
            counts=tuple(counts[numbers[name]] for name in classes),
            sizes=tuple(quantiles.tolist()),
        )

    def _read(
        self, part: pa.Table, rows: np.ndarray, table: Table, numbers: dict[str, int], *, grows: bool = False
    ) -> BoxRows:
        """The boxes of rows; classes that are not in `numbers` are added, or an error."""
        column = self.spec.columns[0]
        boxes: list[np.ndarray] = []
        known = np.zeros(len(rows), dtype=bool)
        mended = np.zeros((len(rows), 2), dtype=np.int32)
        for place, (row, cell) in enumerate(zip(rows.tolist(), part.column(column).to_pylist(), strict=True)):
            try:
                found = read_cell(cell, table.folder_of(row, column))
            except BoxError as error:
                raise UserError(
                    f"{table.locate(row)}, column '{column}' (task '{self.task}'): {error}. Mend it, or empty the "
                    "cell: the row then has no label."
                ) from error
            if found is not None:
                known[place] = True
                own, mended[place] = self._shares(found, row, table, numbers, grows=grows)
                boxes.append(own)
            else:
                boxes.append(np.empty((0, 6), dtype=np.float32))
        lengths = np.fromiter(map(len, boxes), dtype=np.int64, count=len(boxes))
        values = np.concatenate(boxes) if boxes else np.empty((0, 6), dtype=np.float32)
        return BoxRows(Ragged(values, lengths), known, mended)

    def _shares(
        self, found: Annotation, row: int, table: Table, numbers: dict[str, int], *, grows: bool
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """The boxes as `BoxRows` has them, and how many were cut off and left out."""
        if not found.boxes:
            return np.empty((0, 6), dtype=np.float32), (0, 0)
        height, width = found.size or image_size(table, row, self.spec.image)
        sides = np.array([box.sides for box in found.boxes]) / [width, height, width, height]
        within = sides.clip(0.0, 1.0)
        some = (within[:, 2] > within[:, 0]) & (within[:, 3] > within[:, 1])
        cut = int(((within != sides).any(axis=1) & some).sum())
        classes = [self._number(box.name, row, table, numbers, grows=grows) for box in found.boxes]
        ignored = [box.ignored for box in found.boxes]
        values = np.column_stack([within, classes, ignored])[some].astype(np.float32)
        return values, (cut, int((~some).sum()))

    def _number(self, name: str, row: int, table: Table, numbers: dict[str, int], *, grows: bool) -> int:
        if name not in numbers:
            if not grows:
                origin = "is not among the task's classes" if self.spec.classes else "does not occur in training"
                raise UserError(
                    f"{table.locate(row)}: a box has the class '{name}' (task '{self.task}'), which {origin}."
                    f"{closest(name, numbers)} Allowed: {listing(numbers)}. Mend the name, leave the box out, or list "
                    "all classes with `classes`."
                )
            numbers[name] = len(numbers)
        return numbers[name]


class BoxTally(Tally):
    """How many boxes there are, of which classes."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._counts = np.zeros(len(classes), dtype=np.int64)
        self._mended = np.zeros(2, dtype=np.int64)

    def add(self, values: Encoded) -> None:
        """See `Tally.add`."""
        assert isinstance(values, BoxRows)
        self._counts += np.bincount(values.boxes.values[:, 4].astype(np.int64), minlength=len(self._classes))
        self._mended += values.mended.sum(axis=0)

    def __str__(self) -> str:
        total = int(self._counts.sum())
        counts = zip(self._classes, self._counts, strict=True)
        shares = [f"{name}: {percent(100 * count / max(total, 1))}" for name, count in counts]
        shown = ", ".join(shares[:5]) + (f" and {len(shares) - 5} more" if len(shares) > 5 else "")
        cut, left_out = self._mended.tolist()
        mended = f"; {cut} cut off at the border" if cut else ""
        return f"{total:,} boxes ({shown}){mended}" + (f"; {left_out} left out, without area" if left_out else "")


def moved_boxes(boxes: np.ndarray, matrices: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The boxes around what boxes show after their images were changed, cut off at the border.

    Args:
        boxes: float64 `[N, 4]`.
        matrices: float64 `[N, 2, 3]`: for each box, the map of its image, as in `Geometry`: from new to old positions.
        size: The images' height and width.

    Returns:
        float64 `[N, 4]`, and bool `[N]`: those of which enough is still to be seen.
    """
    linear, shift = matrices[:, :, :2], matrices[:, :, 2]
    corners = np.stack([boxes[:, [x, y]] for x in (0, 2) for y in (1, 3)], axis=1)
    # Corners go the other way than the map.
    moved = np.linalg.solve(linear, (corners - shift[:, None]).transpose(0, 2, 1)).transpose(0, 2, 1)
    whole = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    height, width = size
    seen = whole.clip(0, [width, height, width, height])
    share = np.prod(seen[:, 2:] - seen[:, :2], axis=1) / np.maximum(np.prod(whole[:, 2:] - whole[:, :2], axis=1), 1e-9)
    return seen, (share >= _VISIBLE) & ((seen[:, 2:] - seen[:, :2]) >= 1).all(axis=1)
