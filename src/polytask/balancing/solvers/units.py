"""Task gradients as lengths and cosines, in which a problem does not depend on how long they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Units:
    """The gradients that are not 0, as unit vectors.

    Args:
        gramian: `[K, K]`.

    Attributes:
        kept: `[n]`, the places of the gradients that are not 0.
        lengths: `[n]`, their lengths.
        cosines: `[n, n]`, between them.
    """

    def __init__(self, gramian: Array) -> None:
        lengths = np.sqrt(gramian.diagonal().clip(0))
        self.kept = lengths.nonzero()[0]
        self.lengths = lengths[self.kept]
        part = gramian if len(self.kept) == len(lengths) else gramian[self.kept[:, None], self.kept]
        cosines = part / self.lengths / self.lengths[:, None]
        self.cosines = ((cosines + cosines.T) / 2).clip(-1, 1)
        np.fill_diagonal(self.cosines, 1.0)
        self._size = len(lengths)
        same = self.cosines > 1 - 1e-15
        self._same = same if np.count_nonzero(same) > len(same) else None

    def spread(self, parts: Array) -> Array:
        """`[..., K]`, weights for the gradients, from those of the unit vectors `[..., n]`; 0 for gradients of 0.

        Equal gradients get equal weights: which of them has been taken does not matter for the update.
        """
        weights: Array = parts / self.lengths
        if self._same is not None:
            equal = self._same & (np.abs(self.lengths / self.lengths[:, None] - 1) < 1e-15)
            weights = weights @ equal / equal.sum(0)
        if len(self.kept) == self._size:
            return weights
        whole: Array = np.zeros((*parts.shape[:-1], self._size))
        whole[..., self.kept] = weights
        return whole
