"""Groups of tasks whose gradients agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def grouped(cosines: np.ndarray, *, number: int | None, threshold: float) -> list[list[int]]:
    """Average-linkage clusters of tasks on `1 - cosine`: the two closest groups are merged, again and again.

    Args:
        cosines: `[K, K]`; NaN for a pair that was not measured, which counts as 0.
        number: Stop at so many groups; None: by `threshold`.
        threshold: Stop where the mean cosine between any two groups is below it.

    Returns:
        The tasks of each group in order; the groups in the order of their first tasks.
    """
    count = len(cosines)
    if count == 1:
        return [[0]]
    from scipy.cluster.hierarchy import cut_tree, fcluster, linkage

    distances = 1 - np.clip(np.nan_to_num(cosines), -1, 1)
    pairs = np.triu_indices(count, 1)
    tree = linkage(((distances + distances.T) / 2)[pairs], "average")
    if number is not None:
        # Not by fcluster, which makes fewer groups where some are equally close.
        return _members(cut_tree(tree, [number])[:, 0].tolist())
    # A margin for rounding, so that a mean cosine of just the threshold still merges.
    return _members(fcluster(tree, 1 - threshold + 1e-9, "distance").tolist())


def _members(labels: Sequence[int]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for task, label in enumerate(labels):
        found.setdefault(label, []).append(task)
    return list(found.values())
