"""Mean and standard deviation of columns that come in parts."""

from __future__ import annotations

import numpy as np


class Moments:
    """Running count, mean and spread of M columns; missing values (NaN) do not count.

    Parts are merged as in Chan, Golub and LeVeque ("Algorithms for computing the sample variance", 1983), so the result
    does not depend on how the rows are cut, but for rounding.

    Args:
        columns: M.
    """

    def __init__(self, columns: int) -> None:
        self.count = np.zeros(columns, dtype=np.int64)
        self.mean = np.zeros(columns)
        self._squares = np.zeros(columns)
        self._low = np.full(columns, np.inf)
        self._high = np.full(columns, -np.inf)

    def add(self, values: np.ndarray) -> None:
        """Take in rows, float64 `[N, M]`."""
        known = ~np.isnan(values)
        count = known.sum(axis=0)
        divisor = np.maximum(count, 1)
        mean = np.where(known, values, 0.0).sum(axis=0) / divisor
        squares = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0)
        total = np.maximum(self.count + count, 1)
        shift = mean - self.mean
        self.mean = self.mean + shift * count / total
        self._squares = self._squares + squares + shift**2 * self.count * count / total
        self.count = self.count + count
        self._low = np.minimum(self._low, np.where(known, values, np.inf).min(axis=0, initial=np.inf))
        self._high = np.maximum(self._high, np.where(known, values, -np.inf).max(axis=0, initial=-np.inf))

    @property
    def std(self) -> np.ndarray:
        """`[M]`: root of the mean squared deviation; exactly 0 where all values are the same, or there are none."""
        spread = np.sqrt(self._squares / np.maximum(self.count, 1))
        # Rounding leaves a constant column a spread of its own, by which nothing must be divided.
        return np.where(self._low < self._high, spread, 0.0)
