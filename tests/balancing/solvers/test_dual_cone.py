from fractions import Fraction

import numpy as np
from hypothesis import given, settings

from polytask.balancing.solvers.dual_cone import dual_cone

from ..jacobians import ALL, jacobians, lengths, seeds


@settings(max_examples=300, deadline=None)
@given(jacobian=jacobians(ALL), seed=seeds)
def test_projections_meet_the_conditions_for_them(jacobian, seed):
    gramian, size = jacobian @ jacobian.T, lengths(jacobian)
    kept = size > 0
    bounds = np.vstack([np.eye(len(size)), np.random.default_rng(seed).uniform(0, 1, len(size))])
    for bound, weights in zip(bounds, dual_cone(gramian, bounds), strict=True):
        added = weights - bound
        assert added.min() >= 0
        assert not added[~kept].any()
        scale = (bound * size).max() or 1.0
        cosines = (gramian @ weights)[kept] / size[kept] / scale
        parts = (added * size)[kept] / scale
        assert (cosines >= -1e-10 * max(1.0, parts.max(initial=0.0))).all()
        assert (np.abs(cosines * parts) <= 1e-9 * max(1.0, parts.max(initial=0.0)) ** 2).all()


def test_hand_worked_cases():
    for rows, bound, expected in [
        ([[1.0, 0], [0, 1]], [0.5, 0.5], [0.5, 0.5]),
        ([[1, 0], [-1, 1]], [1, 0], [1, 0.5]),
        ([[1, 0], [-1, 0]], [0.5, 0.5], [0.5, 0.5]),
        ([[1, 0], [-2, 0]], [1, 0], [1, 0.5]),
        ([[1, 0], [0, 0]], [0.5, 0.5], [0.5, 0.5]),
        ([[3, 0]], [2], [2]),
    ]:
        jacobian, bounds = np.array(rows, dtype=float), np.array([bound], dtype=float)
        np.testing.assert_allclose(dual_cone(jacobian @ jacobian.T, bounds), [expected], atol=1e-12)


def test_the_golden_cases_are_solved_as_rational_arithmetic_proves(golden):
    """The conditions that only the projection meets, without any rounding; the solver says which gradients count."""
    for case in golden:
        jacobian = [[Fraction(value) for value in row] for row in case["jacobian"]]
        gramian = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in jacobian] for one in jacobian]
        tasks = range(len(jacobian))
        known = np.array([[float(value) for value in row] for row in gramian])
        for which, found in enumerate(dual_cone(known, np.eye(len(jacobian)))):
            chosen = [i for i in tasks if found[i] > (i == which)]
            exact = [Fraction(i == which) for i in tasks]
            parts = solved([[gramian[i][j] for j in chosen] for i in chosen], [-gramian[i][which] for i in chosen])
            assert all(part > 0 for part in parts)
            for i, part in zip(chosen, parts, strict=True):
                exact[i] += part
            assert all(sum(gramian[i][j] * exact[j] for j in tasks) >= 0 for i in tasks)
            update = found @ np.array(case["jacobian"])
            expected = [
                float(sum(exact[i] * row for i, row in enumerate(column))) for column in zip(*jacobian, strict=True)
            ]
            np.testing.assert_allclose(update, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def solved(matrix, right):
    """The solution of linear equations, by elimination."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = next(k for k in range(i, len(rows)) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(len(rows)):
            if k != i and rows[k][i]:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


def test_two_hundred_tasks():
    for size in (40, 300):
        jacobian = np.random.default_rng(0).normal(size=(200, size))
        gramian = jacobian @ jacobian.T
        weights = dual_cone(gramian, np.eye(200)[:5])
        assert (weights >= np.eye(200)[:5]).all()
        assert (weights @ gramian).min() >= -1e-9 * gramian.max()
