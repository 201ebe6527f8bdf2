from itertools import permutations

import numpy as np
import pytest

from polytask.errors import UserError
from polytask.sharing.affinity import affinity_matrix, agglomerative, check_affinity, fafs, spectral


def blocks(sizes, within, between):
    """Affinities of tasks in families: high within, low between."""
    family = np.repeat(np.arange(len(sizes)), sizes)
    matrix = np.where(family[:, None] == family, within, between).astype(float)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def test_the_matrix_is_read_from_either_half():
    given = {"a": {"b": 0.5}, "c": {"a": 0.1, "b": 0.2, "c": 7.0, "other": 3.0}}
    expected = [[1, 0.5, 0.1], [0.5, 1, 0.2], [0.1, 0.2, 1]]
    np.testing.assert_allclose(affinity_matrix(given, ["a", "b", "c"]), expected)
    np.testing.assert_allclose(affinity_matrix({}, ["a"]), [[1]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": {"b": 0.5}}, "no task 'c'.*names: 'a', 'b'"),
        ({"a": {"b": 0.5, "cc": 0.1}}, r"no task 'c'\.|Did you mean"),
        ({"a": {"b": 0.5, "c": 0.1}}, "no number for 'c' with 'b'"),
    ],
)
def test_missing_tasks_and_pairs_are_named(given, message):
    with pytest.raises(UserError, match=message):
        affinity_matrix(given, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": {"b": float("nan")}}, "finite numbers, but that of 'a' and 'b' is nan"),
        ({"a": {"b": 0.5}, "b": {"a": 0.6}}, "symmetric, but 'a' with 'b' is 0.5 and 'b' with 'a' is 0.6"),
    ],
)
def test_bad_numbers_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        check_affinity(given)


@pytest.mark.parametrize("order", list(permutations(range(5)))[::17])
def test_spectral_clustering_finds_the_families_in_any_order(order):
    matrix = blocks([3, 2], 0.9, 0.2)[np.ix_(order, order)]
    found = {frozenset(order[task] for task in group) for group in spectral(matrix, 2)}
    assert found == {frozenset({0, 1, 2}), frozenset({3, 4})}


def test_one_group_and_all_groups_need_no_clustering():
    matrix = blocks([2, 2], 0.9, 0.2)
    assert spectral(matrix, 1) == [[0, 1, 2, 3]]
    assert spectral(matrix, 4) == [[0], [1], [2], [3]]


def between(matrix, one, other):
    """The affinity of two branches, as the paper writes it."""
    there = np.mean([min(matrix[i, j] for j in other) for i in one])
    back = np.mean([min(matrix[i, j] for j in one) for i in other])
    return (there + back) / 2


def cost(matrix, groups, unit):
    """The cost of groups of branches, each branch a list of tasks, as the paper writes it."""
    separation = np.mean([1 - np.mean([min(between(matrix, k, m) for m in group) for k in group]) for group in groups])
    return (len(groups) - 1) * unit + separation


@pytest.mark.parametrize("branch_cost", [0.0, 0.02, 0.05, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("growth", [1.0, 2.0])
def test_fafs_takes_the_cheapest_number_of_groups_at_each_stage(branch_cost, growth):
    matrix = blocks([2, 2, 1], 0.9, 0.3)
    matrix[:2, 2:4] = matrix[2:4, :2] = 0.6  # the first two families are near each other
    branches = [[task] for task in range(5)]
    for above, level in enumerate(fafs(matrix, 3, branch_cost, growth)[::-1]):
        # Of such families there is one natural grouping for each number of groups.
        natural = {
            5: [[[0], [1], [2], [3], [4]]],
            3: [[[0, 1], [2, 3], [4]]],
            2: [[[0, 1, 2, 3], [4]]],
            1: [[[0, 1, 2, 3, 4]]],
        }
        chosen = [[branch for branch in branches if set(branch) <= set(group)] for group in level]
        own = cost(matrix, chosen, branch_cost * growth**above)
        for options in natural.values():
            groups = [[branch for branch in branches if set(branch) <= set(group)] for group in options[0]]
            if all(groups) and sum(map(len, groups)) == len(branches):
                assert own <= cost(matrix, groups, branch_cost * growth**above) + 1e-12
        branches = level


def test_fafs_by_hand():
    matrix = blocks([2, 2], 0.9, 0.1)
    # The last stage: one group costs 0.9, two 0.3 + 0.1, four 0.9. The one below, at twice the cost: one group
    # 1 - 0.1, two 0.6 + 0.1. The first: one 0.9, two 1.2 + 0.1.
    assert fafs(matrix, 3, 0.3, 2.0) == [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0, 1], [2, 3]]]
    assert fafs(matrix, 2, 0.0, 2.0) == [[[0], [1], [2], [3]]] * 2
    assert fafs(matrix, 2, 1.0, 1.0) == [[[0, 1, 2, 3]]] * 2
    assert fafs(np.eye(1), 2, 0.1, 2.0) == [[[0]]] * 2


def test_joining_by_hand():
    matrix = np.eye(4)
    for (i, j), value in {(0, 1): 5.0, (2, 3): 4.0, (0, 2): 1.0, (0, 3): -2.0, (1, 2): 3.0, (1, 3): 2.0}.items():
        matrix[i, j] = matrix[j, i] = value
    assert agglomerative(matrix, [1, 2, 3, 4], "average") == [
        [[0, 1, 2, 3]],
        [[0, 1], [2, 3]],
        [[0, 1], [2], [3]],
        [[0], [1], [2], [3]],
    ]
    # Now 2 goes to {0, 1} by its best pair and by the mean, 3 and 2, but to 3 by the worst, 1.5 against 1.
    matrix[2, 3] = matrix[3, 2] = 1.5
    assert agglomerative(matrix, [2], "single") == [[[0, 1, 2], [3]]]
    assert agglomerative(matrix, [2], "average") == [[[0, 1, 2], [3]]]
    assert agglomerative(matrix, [2], "complete") == [[[0, 1], [2, 3]]]
    assert agglomerative(np.eye(1), [1, 1], "average") == [[[0]], [[0]]]
