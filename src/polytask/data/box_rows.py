"""Boxes of rows, in the form in which they are kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from polytask.data.encoded import Encoded, Ragged


class BoxRows(Encoded):
    """The boxes of rows, as shares of their image's width and height.

    Args:
        boxes: float32 `[n, 6]` for each row: left, top, right, bottom, the class's number, and whether it is ignored.
        known: bool `[N]`: rows that are labelled; they may have no box all the same.
        mended: int32 `[N, 2]`: boxes that were cut off at the image's border, and such that were left out.
    """

    def __init__(self, boxes: Ragged, known: np.ndarray, mended: np.ndarray) -> None:
        self.boxes = boxes
        self.known = known
        self.mended = mended

    def __len__(self) -> int:
        return len(self.known)

    @property
    def nbytes(self) -> int:
        """See `Encoded.nbytes`."""
        return int(self.boxes.nbytes + self.known.nbytes + self.mended.nbytes)

    def select(self, positions: np.ndarray) -> Self:
        """See `Encoded.select`."""
        return type(self)(self.boxes.select(positions), self.known[positions], self.mended[positions])

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """See `Encoded.join`."""
        return cls(
            Ragged.join([part.boxes for part in parts]),
            np.concatenate([part.known for part in parts]),
            np.concatenate([part.mended for part in parts]),
        )
