"""Projection onto the simplex."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def onto_simplex(point: Array) -> Array:
    """`[K]`, the nearest numbers to `point` `[K]` that are at least 0 and sum to 1."""
    # Apart from a shift that all share; the greatest stays, so that huge numbers do not swallow the sum.
    falling = np.sort(point)[::-1] - point.max()
    shifts = (np.cumsum(falling) - 1) / np.arange(1, len(point) + 1)
    last = np.count_nonzero(falling > shifts) - 1
    nearest: Array = (point - point.max() - shifts[last]).clip(0)
    return nearest
