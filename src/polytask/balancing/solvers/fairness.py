"""Weights in balance with what the tasks get: `G w = w^(-p)`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dposv

from polytask.balancing.solvers.units import Units

Array = NDArray[np.float64]

OWN = 1e-10
"""What is added to the squared length of each gradient where there is no balance, in shares of it."""
LEAST = -300.0
"""The least logarithm of a weight; with a small p, weights of tasks that get more than enough go to 0 beyond it."""
NEAR = 0.2
"""The greatest change of a weight, relative to it, in a Newton step that needs no checking."""


def fairness(gramian: Array, power: float) -> Array:
    """`[K]`, the weights `w > 0` with `(G w)_i = w_i^(-p)`.

    They minimise the convex `w·Gw / 2 - sum_i integral of w_i^(-p)`, by Newton steps for their logarithms.

    Where some of the gradients, with factors above 0, cancel, there is no balance, and near to that the weights are
    without bound. Once the sums `G w` lose more than ten digits in this way, each gradient is given another part at
    right angles to all others, of 1e-5 of its length. The weights are then finite, up to about 1e5 over the gradients'
    lengths (for p = 1), and multiply gradients that cancel.

    Args:
        gramian: `[K, K]`. A gradient of 0 has the weight 0.
        power: p, above 0.
    """
    units = Units(gramian)
    if not len(units.kept):
        return np.zeros(len(gramian))
    # With lengths around 1; w is of the degree -2 / (1 + p) in them.
    logs = np.log(units.lengths)
    middle = logs.mean()
    scales = (power - 1) * (logs - middle)
    found, bounded = _Balance(units.cosines, scales, power).solve(1 / OWN)
    if not bounded:
        values, vectors = np.linalg.eigh(units.cosines)
        found, _ = _Balance((vectors * (values.clip(0) + OWN)) @ vectors.T, scales, power).solve(np.inf)
    return units.spread(np.exp(found + middle * (1 - 2 / (1 + power))))


class _Balance:
    """The y with `C y = exp(scales) y^(-p)`, for `C` `[n, n]` and `scales` `[n]`; found as logarithms z."""

    def __init__(self, cosines: Array, scales: Array, power: float) -> None:
        self._cosines, self._scales, self._power = cosines, scales, power

    def solve(self, bound: float) -> tuple[Array, bool]:
        """`[n]`, z; and whether the parts `y_i²` of the sums `y_i (C y)_i` stayed below `bound` times their goals."""
        power = self._power
        z, before = self._scales / (1 + power), np.inf
        for _ in range(200):
            y, shares = np.exp(z), np.exp(self._scales + (1 - power) * z)
            products = self._cosines @ y
            square = float(y @ products)
            if before > NEAR and square > 0:
                # First the best multiple of y, in closed form.
                factor = (float(shares.sum()) / square) ** (1 / (1 + power))
                z, y, products, shares = (
                    z + np.log(factor),
                    y * factor,
                    products * factor,
                    shares * factor ** (1 - power),
                )
            roots = np.sqrt(shares)
            relative = y / roots
            largest = float(relative.max())
            if largest**2 > bound:
                return z, False
            # The Hessian for z, less what vanishes at the solution; the shares' roots are taken out on both sides.
            hessian = relative[:, None] * self._cosines * relative
            hessian.flat[:: len(z) + 1] += power
            slopes = shares - y * products
            _, step, failed = dposv(hessian, slopes / roots)
            if failed:
                return z, False
            step /= roots
            length = float(np.abs(step).max())
            # In the directions in which the Hessian is steepest.
            steepest = length * max(largest, 1.0)
            if steepest < 1e-8:
                # What is left is of the order of the square.
                return z + step, True
            if length < 1e-2 and length > before / 2:
                break
            before = length
            change = np.log1p(step) if steepest < NEAR else self._change(step, y, shares, float(slopes @ step))
            z = np.maximum(z + change, LEAST)
        return z, True

    def _change(self, step: Array, y: Array, shares: Array, fall: float) -> Array:
        """How z changes by as much of a step as lets the objective fall, at the rate `fall` at the start."""
        power, part = self._power, 1.0
        while True:
            # Straight in y, which keeps to the narrow valleys where gradients nearly cancel. Far down, where that would
            # lead below 0, as for a task on its own.
            change = np.log1p(np.maximum(part * step, -0.5))
            change -= np.log1p(power * np.maximum(-part * step - 0.5, 0) / (1 + power / 2)) / power
            grown = y * np.expm1(change)
            gain = change if power == 1 else np.expm1(((1 - power) * change).clip(max=600)) / (1 - power)
            rise = grown @ (self._cosines @ (y + grown / 2)) - shares @ gain
            if part < 1e-10 or rise <= -1e-4 * part * fall:
                return change
            part /= 2
