"""The combination of gradients that CAGrad adds to their mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polytask.balancing.solvers.nonnegative import NonnegativeProgram
from polytask.balancing.solvers.units import Units

Array = NDArray[np.float64]


def conflict_averse(gramian: Array, radius: float) -> Array:
    """`[K]`, the `x >= 0` with which `d = g_0 + Jᵀ x` has the greatest least product with a gradient, `min_i g_i · d`.

    Here `g_0` is the mean of the gradients, and d may be `radius |g_0|` from it. In proportion to x are the weights of
    sum 1 with the least `g_w · g_0 + radius |g_0| |g_w|`, where `g_w` is the combination with them.

    The shortest addition with which all products reach a level grows with that level; sought is the level at which its
    length is the radius. Where gradients cancel (`g_w` shorter than 1e-5 of the shortest of them), no level above 0 can
    be reached, and x is the shortest addition with which no product is negative, if that is short enough.

    Args:
        gramian: `[K, K]`. A gradient of 0 counts in the mean, and not in the least product.
        radius: Of the ball around the mean, in lengths of it.
    """
    units = Units(gramian)
    mean = units.lengths / len(gramian)
    products = units.cosines @ mean
    square = float(mean @ products)
    if radius == 0 or square <= 4e-16 * mean.sum() ** 2:
        return np.zeros(len(gramian))
    mean, products = mean / np.sqrt(square), products / np.sqrt(square)
    program = NonnegativeProgram(units.cosines)
    # The level is that of `g_i · d` in lengths of the mean and of the shortest gradient.
    demands = units.lengths.min() / units.lengths

    def reaching(level: float) -> Array:
        """The shortest addition for a level."""
        parts, divisor = program.solve(level * demands - products)
        return parts / max(divisor, 1e-12)

    def length(x: Array) -> float:
        return float(np.linalg.norm(program.factor @ x))

    x = program.project(mean)
    if length(x) < radius:
        shortest, _ = program.solve(demands)
        if length(shortest) <= 1e-5 * (demands @ shortest):
            return units.spread(x * np.sqrt(square))
        x = shortest
    # Any direction is a bound on the level from below, and as weights one from above.
    lowest = float(((products + units.cosines @ x * (radius / length(x))) / demands).min())
    highest = float((products @ x + radius * length(x)) / (demands @ x))
    level = highest
    for _ in range(60):
        x = reaching(level)
        reached = length(x)
        if abs(reached - radius) <= 1e-12 * radius:
            break
        lowest, highest = (lowest, level) if reached > radius else (level, highest)
        # Newton's method: the square of the length rises by `2 demands·x`.
        rise = float(demands @ x)
        following = level - (reached - radius) * reached / rise if rise > 0 else lowest
        if not lowest < following < highest:
            following = (lowest + highest) / 2
        if following == level:
            break
        level = following
    return units.spread(x * (radius * np.sqrt(square) / length(x)))
