"""Quadratic programs in numbers that cannot be negative, which the other problems are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dposv
from scipy.optimize import nnls

Array = NDArray[np.float64]


class NonnegativeProgram:
    """The minima of `x·Cx / 2 - f·x` over `x >= 0`, for one matrix C and any number of vectors f.

    Where C is well-conditioned, by block pivoting: solve for the numbers that are taken to be above 0, move all that
    turn out to be on the wrong side, and repeat. Two or three rounds find it nearly always. Where they do not, and for
    other matrices, by least squares: the minimum is `u / (1 - f·u)` for the `u >= 0` of least `|A u|² + (f·u - 1)²`,
    since the best multiple of a direction is in closed form for both (Lawson and Hanson, "Solving Least Squares
    Problems", 1974, chapter 23).

    Args:
        cosines: `[K, K]`, C, with 1 on the diagonal, positive semi-definite but for rounding.

    Attributes:
        factor: `[r, K]`, A with `AᵀA = C`.
    """

    def __init__(self, cosines: Array) -> None:
        self._cosines = cosines
        self._regular = False
        try:
            self.factor: Array = np.linalg.cholesky(cosines).T.astype(np.float64, copy=False)
            self._regular = bool(self.factor.diagonal().min() > 1e-5)
        except np.linalg.LinAlgError:
            pass
        if not self._regular:
            values, vectors = np.linalg.eigh(cosines)
            # Gramians that were measured in float32 have negative eigenvalues.
            kept = values > 4e-16 * len(cosines) * values[-1]
            self.factor = np.sqrt(values[kept])[:, None] * vectors[:, kept].T

    def project(self, point: Array) -> Array:
        """The minimum `[K]` for `f = -C p`: what is least to add to p, so that no number of `C (p + x)` is below 0.

        Args:
            point: `[K]`, p.
        """
        linear = -(self._cosines @ point)
        if linear.max() <= 1e-15 * len(point) * np.abs(point).max():
            return np.zeros(len(point))
        x = self._pivoted(linear)
        return _least_squares(self.factor, -(self.factor @ point)) if x is None else x

    def solve(self, linear: Array) -> tuple[Array, float]:
        """Numbers `[K]`, and what to divide them by for the minimum; 0 where f rises without bound along them.

        Args:
            linear: `[K]`, f, with the greatest numbers around 1.
        """
        if linear.max() <= 1e-15 * len(linear):
            return np.zeros(len(linear)), 1.0
        x = self._pivoted(linear)
        if x is not None:
            return x, 1.0
        target = np.zeros(len(self.factor) + 1)
        target[-1] = 1.0
        u = _least_squares(np.vstack([self.factor, linear]), target)
        return u, max(float(1 - linear @ u), 0.0)

    def _pivoted(self, linear: Array) -> Array | None:
        if not self._regular:
            return None
        positive = linear > 0
        for _ in range(10):
            chosen = positive.nonzero()[0]
            if not len(chosen):
                break
            rows = self._cosines[chosen]
            _, part, _ = dposv(rows[:, chosen], linear[chosen])
            wrong = part @ rows < linear - 1e-15 * len(linear) * max(1.0, np.sqrt(part @ part))
            wrong[chosen] = part < 0
            if not wrong.any():
                x = np.zeros(len(linear))
                x[chosen] = part
                return x
            positive ^= wrong
        return None


def _least_squares(rows: Array, target: Array) -> Array:
    """The `u >= 0` of least `|A u - b|`, one of them where there are many.

    By the active-set method of Lawson and Hanson. Where columns depend on each other it can stop early, or run away
    along them. What it finds is checked, and if need be the proximal point method takes over: the same problem with a
    small ridge around the last result, a few times.
    """
    found = _lawson_hanson(rows, target)
    if found is not None and _is_least(rows, target, found):
        return found
    size = rows.shape[1]
    ridge = 1e-7 * np.sqrt(size)
    rows = np.concatenate([rows, ridge * np.eye(size)])
    u = np.zeros(size)
    for _ in range(20):
        before = u
        found = _lawson_hanson(rows, np.concatenate([target, ridge * u]))
        u = before if found is None else found
        if np.abs(u - before).max() <= 1e-9 * u.max():
            break
    return u


def _lawson_hanson(rows: Array, target: Array) -> Array | None:
    try:
        found: Array = nnls(rows, target, maxiter=30 * rows.shape[1])[0]
    except RuntimeError:
        return None
    return found


def _is_least(rows: Array, target: Array, u: Array) -> bool:
    slopes = (target - rows @ u) @ rows
    return bool(u.max() < 1e6 and slopes.max() <= 1e-12 and slopes[u > 0].min(initial=0.0) >= -1e-12)
