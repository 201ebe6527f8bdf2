"""Projection onto the simplex."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def onto_simplex(point: Array) -> Array:
    """`[K]`, the nearest numbers to `point` `[K]` that are at least 0 and sum to 1."""
    # From the greatest number on: sums of huge numbers would swallow the 1.
    point = point - point.max()
    falling = np.sort(point)[::-1]
    shift = ((falling.cumsum() - 1) / np.arange(1, len(point) + 1)).max()
    nearest: Array = np.maximum(point - shift, 0)
    return nearest
