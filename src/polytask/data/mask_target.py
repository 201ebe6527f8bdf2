"""Targets of a class for each pixel of an image."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from polytask.data.encoded import Dense, Encoded
from polytask.data.geometry import Geometry
from polytask.data.pixel_cells import MapError
from polytask.data.pixel_target import AT_ONCE, PixelTarget
from polytask.data.table import Table
from polytask.data.tallies import percent
from polytask.data.target import Tally
from polytask.errors import UserError, listing
from polytask.labels import TargetSummary

log = logging.getLogger("polytask")

BLANK = 255
"""What stands for no class among the kept numbers of classes."""

_UNKNOWN = -1
_SHOWN = 5


class MaskTarget(PixelTarget):
    """A class for each pixel: int64 `[B, H, W]`, the number of the class in the order of the classes."""

    noun = "masks"

    def read_one(self, values: np.ndarray) -> np.ndarray:
        """See `PixelTarget.read_one`: uint8 `[H, W]`."""
        ids = whole_numbers(values)
        codes = self._codes[ids.clip(-1, len(self._codes) - 2)]
        if (codes == _UNKNOWN).any():
            unknown = sorted(np.unique(ids[codes == _UNKNOWN]).tolist())
            raise MapError(
                f"has pixels of the class {listing(map(str, unknown))}, which "
                f"{'is no class of the task' if self.spec.ids else 'does not occur in the training part'}. Allowed: "
                f"{listing(f'{i} ({name})' for i, name in zip(self.ids, self._names, strict=True))}"
                f"{f', and to be ignored {listing(map(str, self.spec.ignore))}' if self.spec.ignore else ''}. Set "
                f"ignore: [{', '.join(map(str, unknown))}] for pixels of no class, or list all classes with `classes`"
            )
        kept: np.ndarray = codes.astype(np.uint8)
        return kept

    @property
    def ids(self) -> tuple[int, ...]:
        """The classes' numbers in the files, in their order; after `fit`."""
        return self.spec.ids or tuple(map(int, self.summary.classes))

    @property
    def _names(self) -> tuple[str, ...]:
        return self.spec.classes or tuple(self.summary.classes)

    def blank(self, rows: int) -> Tensor:
        """See `PixelTarget.blank`."""
        return torch.full((rows, *self.size), BLANK, dtype=torch.uint8)

    def valid(self, kept: Tensor) -> Tensor:
        """See `PixelTarget.valid`."""
        return kept != BLANK

    def moved(self, kept: Tensor, geometry: Geometry) -> Tensor:
        """See `PixelTarget.moved`."""
        return geometry.nearest(kept, BLANK)

    def made(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """See `PixelTarget.made`."""
        mask = self.valid(kept)
        return kept.long().masked_fill_(~mask, 0), mask

    def tally(self) -> Tally:
        """See `Target.tally`."""
        return MaskTally(self.summary.classes)

    @property
    def row_bytes(self) -> int:
        """See `Target.row_bytes`."""
        return self.size[0] * self.size[1]

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        counts: Counter[int] = Counter()
        labelled = 0
        # Where the classes are to be found, any number is one.
        convert, count = (whole_numbers, self._count_ids) if self.spec.ids is None else (None, self._count_codes)
        for positions, part in table.batches(self.spec.columns, rows, size=AT_ONCE):
            for _, values in self._maps(part, positions, table, convert):
                found = count(values)
                counts.update(found)
                labelled += bool(found)
        self._tell_unreadable()
        self._require_labels(labelled, table, rows)
        ids = self.spec.ids or tuple(sorted(counts))
        if len(ids) > BLANK:
            raise UserError(
                f"Task '{self.task}': the masks in '{self.spec.columns[0]}' have {len(ids)} classes, but at most "
                f"{BLANK} are learned. For numbers that measure something, the task's type is dense_regression."
            )
        if len(ids) == 1:
            raise UserError(
                f"Task '{self.task}': all pixels of the training part of {table.source} are of the class {ids[0]}, so "
                "there is nothing to tell apart. At least two classes are needed."
            )
        classes = self.spec.classes or tuple(map(str, ids))
        absent = [name for name, i in zip(classes, ids, strict=True) if not counts[i]]
        if absent:
            log.warning("Task '%s': no training pixel is of the class %s.", self.task, listing(absent))
        return TargetSummary(labelled=labelled, classes=classes, counts=tuple(counts[i] for i in ids))

    def _count_ids(self, values: np.ndarray) -> dict[int, int]:
        """How many pixels each number of a file has, those to be ignored left out."""
        ids, counts = np.unique(values, return_counts=True)
        pairs = zip(ids.tolist(), counts.tolist(), strict=True)
        return {number: count for number, count in pairs if number not in self.spec.ignore}

    def _count_codes(self, values: np.ndarray) -> dict[int, int]:
        """The same, of what is kept of a file."""
        counts = np.bincount(values.ravel(), minlength=BLANK + 1)
        return {number: int(counts[code]) for code, number in enumerate(self.ids) if counts[code]}

    @cached_property
    def _codes(self) -> np.ndarray:
        """By number in the files, at the end for greater and then for negative ones: the class, or that it is none."""
        ids = self.ids
        codes = np.full(max(*ids, *self.spec.ignore, 0) + 3, _UNKNOWN, dtype=np.int16)
        codes[list(ids)] = np.arange(len(ids))
        codes[[i for i in self.spec.ignore if i >= 0]] = BLANK
        if any(i < 0 for i in self.spec.ignore):
            codes[-1] = BLANK
        return codes


def whole_numbers(values: np.ndarray) -> np.ndarray:
    """int64 `[H, W]`: the numbers in a file.

    Raises:
        MapError: It has several numbers a pixel, or such with fractions.
    """
    if values.shape[2] > 1 and not (values == values[:, :, :1]).all():
        raise MapError(
            f"has {values.shape[2]} numbers a pixel, but a mask has one: the class. Colours are no classes: save the "
            "mask as a grey or palette image of class numbers"
        )
    first = values[:, :, 0]
    ids = first.astype(np.int64)
    if first.dtype.kind == "f" and not np.array_equal(ids, first):
        raise MapError("has numbers with fractions, but a mask has classes: whole numbers")
    return ids


class MaskTally(Tally):
    """The share of each class of the pixels that have one."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._counts = np.zeros(BLANK + 1, dtype=np.int64)

    def add(self, values: Encoded) -> None:
        """See `Tally.add`."""
        assert isinstance(values, Dense)
        self._counts += np.bincount(values.tensors["target"].numpy().ravel(), minlength=BLANK + 1)

    def __str__(self) -> str:
        counts = self._counts[: len(self._classes)]
        shares = 100 * counts / max(int(counts.sum()), 1)
        order = np.argsort(-shares, kind="stable")[:_SHOWN]
        shown = ", ".join(f"{self._classes[i]}: {percent(shares[i])}" for i in order)
        more = f" and {len(counts) - _SHOWN} more classes" if len(counts) > _SHOWN else ""
        return f"pixels of {shown}{more}"
