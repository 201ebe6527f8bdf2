"""Random numbers that depend on the seed, the epoch and the row alone, in whichever process they are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polytask.data.random_bits import key_of, mixed, uniform


@dataclass(frozen=True)
class Draws:
    """A stream of random numbers for each row.

    Attributes:
        seed: The run's seed.
        epoch: Counted from 0; each epoch draws anew.
        gentle: Whether only changes are wanted that hardly make a row harder to read.
    """

    seed: int
    epoch: int
    gentle: bool = False

    def bits(self, rows: np.ndarray, stream: int) -> np.ndarray:
        """uint64 `[B]`: random bits for each row (int64 positions).

        Args:
            rows: The rows' positions in their table.
            stream: Names the purpose: two streams are independent.
        """
        return mixed(rows.astype(np.uint64) ^ np.uint64(key_of(self.seed, self.epoch, stream)))

    def uniform(self, rows: np.ndarray, stream: int) -> np.ndarray:
        """float64 `[B]` in [0, 1), one for each row."""
        return uniform(self.bits(rows, stream))

    def grid(self, rows: np.ndarray, stream: int, columns: int) -> np.ndarray:
        """float64 `[B, columns]` in [0, 1); those of a column do not depend on how many columns there are."""
        return uniform(mixed(self.bits(rows, stream)[:, None] ^ mixed(np.arange(columns, dtype=np.uint64))))
