"""The shortest vector in the convex hull of the gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polytask.balancing.solvers.nonnegative import NonnegativeProgram
from polytask.balancing.solvers.units import Units

Array = NDArray[np.float64]


def min_norm(gramian: Array) -> Array:
    """`[K]`, the weights `w >= 0` with sum 1 of least `w·Gw`.

    They are in proportion to the `x >= 0` of least `x·Gx / 2 - sum(x)`.

    Args:
        gramian: `[K, K]`. A gradient of 0 is left out, and has the weight 0 unless all are.
    """
    units = Units(gramian)
    if not len(units.kept):
        return np.full(len(gramian), 1 / len(gramian))
    parts, _ = NonnegativeProgram(units.cosines).solve(units.lengths.min() / units.lengths)
    weights = units.spread(parts / parts.sum())
    shares: Array = weights / weights.sum()
    return shares
