"""Projections onto the dual cone of the gradients: the directions that conflict with none of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polytask.balancing.solvers.nonnegative import NonnegativeProgram
from polytask.balancing.solvers.units import Units

Array = NDArray[np.float64]


def dual_cone(gramian: Array, bounds: Array) -> Array:
    """`[m, K]`, for each row u of `bounds` the weights `v >= u` of least `v·Gv`.

    The combination `Jᵀ v` is the projection of `Jᵀ u` onto the vectors whose products with all gradients are at least
    0.

    Args:
        gramian: `[K, K]`.
        bounds: `[m, K]`. All problems share one factorisation.
    """
    units = Units(gramian)
    lowest = bounds[:, units.kept] * units.lengths
    sizes = np.abs(lowest).max(1, initial=0.0)
    if not sizes.any():
        return bounds
    program = NonnegativeProgram(units.cosines)
    parts = np.zeros_like(lowest)
    for i in sizes.nonzero()[0]:
        parts[i] = sizes[i] * program.project(lowest[i] / sizes[i])
    raised: Array = bounds + units.spread(parts)
    return raised
