"""Trees of tasks from how well each two of them go together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from polytask.errors import UserError, closest, listing

if TYPE_CHECKING:
    import numpy as np

Affinity = Mapping[str, Mapping[str, float]]
"""Numbers for pairs of tasks; higher is better together."""

Linkage = Literal["average", "complete", "single"]
LINKAGES: tuple[str, ...] = get_args(Linkage)

Groups = list[list[int]]
"""Positions of tasks; each is in one group."""


def check_affinity(affinity: Affinity) -> None:
    """Refuse numbers that are none, and pairs that say two things.

    Raises:
        UserError: An entry is not finite, or differs from the one for the same pair the other way round.
    """
    for one, row in affinity.items():
        for other, value in row.items():
            if not math.isfinite(value):
                raise UserError(f"'affinity' must hold finite numbers, but that of '{one}' and '{other}' is {value}.")
            back = affinity.get(other, {}).get(one, value)
            if not math.isclose(value, back, rel_tol=1e-6, abs_tol=1e-9):
                raise UserError(
                    f"'affinity' must be symmetric, but '{one}' with '{other}' is {value} and '{other}' with '{one}' "
                    f"is {back}. Give one number for each pair, their mean for instance."
                )


def affinity_matrix(affinity: Affinity, tasks: Sequence[str]) -> np.ndarray:
    """`[K, K]`, symmetric, with 1 on the diagonal. Tasks beside `tasks` are left out.

    Raises:
        UserError: A task or a pair is missing.
    """
    import numpy as np

    matrix = np.eye(len(tasks))
    named = dict.fromkeys([*affinity, *(other for row in affinity.values() for other in row)])
    for i, one in enumerate(tasks):
        if one not in named and len(tasks) > 1:
            raise UserError(f"'affinity' has no task '{one}'.{closest(one, named)} It names: {listing(named)}.")
        for j, other in enumerate(tasks[:i]):
            value = affinity.get(one, {}).get(other, affinity.get(other, {}).get(one))
            if value is None:
                raise UserError(f"'affinity' has no number for '{one}' with '{other}'. Give one for each pair.")
            matrix[i, j] = matrix[j, i] = value
    return matrix


def fafs(affinity: np.ndarray, stages: int, branch_cost: float, cost_growth: float) -> list[Groups]:
    """The tree of fully-adaptive feature sharing: see `Branching`.

    Args:
        affinity: `[K, K]`, from 0 to 1.
        stages: How many there are.
        branch_cost: Of one more branch at the last stage.
        cost_growth: How many times as much one costs at the stage below.

    Returns:
        The groups at each stage, from the input on.
    """
    levels: list[Groups] = []
    groups = [[task] for task in range(len(affinity))]
    for above in range(stages):
        between = _between(affinity, groups)
        choices = [spectral(between, count) for count in range(1, len(groups) + 1)]
        unit = branch_cost * cost_growth**above
        best = min(choices, key=lambda chosen: (len(chosen) - 1) * unit + _separation(between, chosen))
        groups = [sorted(task for branch in chosen for task in groups[branch]) for chosen in best]
        levels.append(groups)
    return levels[::-1]


def agglomerative(affinity: np.ndarray, counts: Sequence[int], linkage: Linkage) -> list[Groups]:
    """The groups that remain when, from the tasks on, the two that go together best are joined again and again.

    Args:
        affinity: `[K, K]`.
        counts: How many groups to stop at, for each of the results.
        linkage: The affinity of two groups: the mean over their pairs of tasks, the least, or the greatest.
    """
    import numpy as np
    from scipy.cluster.hierarchy import linkage as joins_of
    from scipy.spatial.distance import squareform

    if len(affinity) == 1:
        return [[[0]] for _ in counts]
    distances = affinity.max() - affinity
    np.fill_diagonal(distances, 0)
    joins = joins_of(squareform(distances, checks=False), linkage)
    return [_joined(joins, count) for count in counts]


def spectral(affinity: np.ndarray, count: int) -> Groups:
    """Groups by spectral clustering (Ng, Jordan and Weiss, NIPS 2001).

    k-means starts from Ward's clustering and not at random: a tree must come out the same when a model is loaded.

    Args:
        affinity: `[N, N]`, not negative, above 0 on the diagonal.
        count: How many groups there are to be.
    """
    import numpy as np
    from scipy.cluster.hierarchy import ward
    from scipy.cluster.vq import kmeans2
    from scipy.linalg import eigh

    total = len(affinity)
    if count in (1, total):
        return [list(range(total))] if count == 1 else [[each] for each in range(total)]
    degrees = np.sqrt(affinity.sum(1))
    _, vectors = eigh(affinity / np.outer(degrees, degrees), subset_by_index=(total - count, total - 1))
    points = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    centres = np.array([points[group].mean(0) for group in _joined(ward(points), count)])
    _, labels = kmeans2(points, centres, iter=100, minit="matrix")
    groups = [[int(each) for each in np.flatnonzero(labels == label)] for label in range(count)]
    return sorted(group for group in groups if group)


def _joined(joins: np.ndarray, count: int) -> Groups:
    """The groups that there are when, of some joins of two groups in a row, so many are done that `count` remain."""
    total = len(joins) + 1
    groups = {each: [each] for each in range(total)}
    for number, (one, other) in enumerate(joins[: total - count, :2].astype(int)):
        groups[total + number] = groups.pop(one) + groups.pop(other)
    return sorted(sorted(group) for group in groups.values())


def _between(affinity: np.ndarray, branches: Groups) -> np.ndarray:
    """`[N, N]`, between branches: the mean over one's tasks of the least affinity to the other's, both ways round."""
    import numpy as np

    one_way = np.array([[affinity[np.ix_(k, m)].min(1).mean() for m in branches] for k in branches])
    found: np.ndarray = (one_way + one_way.T) / 2
    return found


def _separation(between: np.ndarray, groups: Groups) -> float:
    """What groups cost for the branches in them that do not go together."""
    import numpy as np

    return float(np.mean([1 - between[np.ix_(group, group)].min(1).mean() for group in groups]))
