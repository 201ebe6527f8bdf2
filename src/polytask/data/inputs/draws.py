"""Random numbers that depend on the seed, the epoch and the row alone, in whichever process they are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Draws:
    """A stream of random numbers for each row.

    Attributes:
        seed: The run's seed.
        epoch: Counted from 0; each epoch draws anew.
    """

    seed: int
    epoch: int

    def bits(self, rows: np.ndarray, stream: int) -> np.ndarray:
        """uint64 `[B]`: random bits for each row (int64 positions).

        Args:
            rows: The rows' positions in their table.
            stream: Names the purpose: two streams are independent.
        """
        key = np.zeros((), dtype=np.uint64)
        for part in (self.seed, self.epoch, stream):
            key = _mix(np.uint64(part % 2**64) ^ key)
        return _mix(rows.astype(np.uint64) ^ key)

    def uniform(self, rows: np.ndarray, stream: int) -> np.ndarray:
        """float64 `[B]` in [0, 1), one for each row."""
        return (self.bits(rows, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: np.ndarray | np.uint64) -> np.ndarray:
    """One step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64 bits without visible structure."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(value, dtype=np.uint64) + _GOLDEN
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))
