from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.solvers import nonnegative
from polytask.balancing.solvers.nonnegative import NonnegativeProgram

from ..jacobians import NEVER_ZERO, jacobians, lengths, seeds


def cosines_of(jacobian):
    unit = jacobian / lengths(jacobian)[:, None]
    return unit @ unit.T


def best_of_all_sides(cosines, linear):
    """The minimum, by trying which numbers are above 0."""
    size, best = len(linear), (0.0, np.zeros(len(linear)))
    for chosen in chain.from_iterable(combinations(range(size), n) for n in range(1, size + 1)):
        rows = list(chosen)
        x = np.zeros(size)
        x[rows] = np.linalg.solve(cosines[np.ix_(rows, rows)], linear[rows])
        if x.min() >= 0:
            best = min(best, (x @ cosines @ x / 2 - linear @ x, x), key=lambda pair: pair[0])
    return best[1]


@settings(max_examples=60, deadline=None)
@given(seed=seeds, size=st.integers(1, 6))
def test_well_conditioned_problems_have_the_solution_that_trying_all_finds(seed, size):
    rng = np.random.default_rng(seed)
    cosines = cosines_of(rng.normal(size=(size, 2 * size)))
    linear = rng.uniform(-1, 1, size)
    parts, divisor = NonnegativeProgram(cosines).solve(linear)
    np.testing.assert_allclose(parts / divisor, best_of_all_sides(cosines, linear), atol=1e-10)


@pytest.mark.parametrize(
    ("rows", "linear"),
    [
        # Blocks that change sides all at once go in circles here,
        (
            [[11.9, -2.2, -4.7, -8.4], [14, -2, -3.8, -6.2], [11.8, 0.1, -5.2, -8.6], [-12.4, 3.1, 4, 10]],
            [-7, -1, -10, 8],
        ),
        ([[1.9, 1.7, -6.9], [-2.9, 0, 4.7], [1.8, 1.5, -6.1]], [-4, 10, -5]),
        # and leave none over here.
        ([[-3.2, -0.8, 5.5], [6.3, -2.2, -5.2], [3.4, 0.1, -4.5]], [-5, 1, 4]),
        ([[-0.7, 1.4, -3, 1.2], [-2.4, -1, -2.2, 0.1], [-1.5, -1.7, -1.5, 0.5], [1, 1.1, 2.8, -0.6]], [4, 1, 6, -7]),
    ],
)
def test_so_have_those_that_block_pivoting_does_not_solve(rows, linear):
    cosines, linear = cosines_of(np.array(rows)), np.array(linear) / 10
    parts, divisor = NonnegativeProgram(cosines).solve(linear)
    expected = best_of_all_sides(cosines, linear)
    np.testing.assert_allclose(parts / divisor, expected, atol=1e-8 * expected.max())


@settings(max_examples=200, deadline=None)
@given(jacobian=jacobians(NEVER_ZERO), seed=seeds)
def test_what_is_least_to_add_meets_the_conditions_for_it(jacobian, seed):
    cosines = cosines_of(jacobian)
    point = np.random.default_rng(seed).uniform(-1, 1, len(jacobian))
    x = NonnegativeProgram(cosines).project(point)
    slopes = cosines @ (point + x)
    size = max(1.0, x.max())
    assert x.min() >= 0
    assert slopes.min() >= -1e-10 * size
    assert np.abs(slopes * x).max() <= 1e-10 * size**2


@settings(max_examples=200, deadline=None)
@given(jacobian=jacobians(NEVER_ZERO))
def test_a_right_side_that_no_combination_has_is_fine_where_there_is_a_minimum(jacobian):
    cosines = cosines_of(jacobian)
    levels = np.linspace(0.5, 1, len(jacobian))
    parts, divisor = NonnegativeProgram(cosines).solve(levels)
    assert parts.min() >= 0
    assert parts.any()
    x = parts / (levels @ parts)
    square = x @ cosines @ x
    # Either there is a minimum, in proportion to x, or the objective falls without end along x.
    assert (cosines @ x - square * levels).min() >= -1e-10 * max(1.0, x.max())
    assert divisor > 1e-9 or square < 1e-8


def test_where_it_falls_without_end_there_is_nothing_to_divide_by():
    parts, divisor = NonnegativeProgram(np.array([[1.0, -1], [-1, 1]])).solve(np.ones(2))
    np.testing.assert_allclose(parts, 0.5)
    assert divisor == pytest.approx(0, abs=1e-12)


def test_nothing_is_added_where_nothing_can_be_gained():
    program = NonnegativeProgram(np.eye(3))
    assert not program.solve(np.array([-1.0, 0, 1e-18]))[0].any()
    assert not program.project(np.array([1.0, 0, 2])).any()


@pytest.mark.parametrize("seed", range(40))
def test_columns_that_cancel_in_many_ways_do_not_lead_astray(seed):
    # Lawson and Hanson's method, as it comes, stops early or runs away at several of these.
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, 2))
    rows[4], rows[3] = -rows[0], -rows[1]
    cosines = cosines_of(rows)
    for point in np.eye(5):
        x = NonnegativeProgram(cosines).project(point)
        assert (cosines @ (point + x)).min() >= -1e-10
        assert x.max() < 1e4


def test_a_matrix_with_negative_eigenvalues_counts_as_the_nearest_one_without():
    jacobian = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    unit = jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)
    cosines = (unit @ unit.T).astype(float)
    assert np.linalg.eigvalsh(cosines)[0] < -1e-9
    x = NonnegativeProgram(cosines).project(np.full(12, 1 / 12))
    assert (cosines @ (1 / 12 + x)).min() >= -1e-6
    assert x.max() < 10


def test_gradients_that_leave_next_to_no_room_are_cleared_up_by_proximal_steps():
    rows = np.array([[1, 0, 0], [-1, 3e-7, 0], [0, -1, 0], [0, 0, 1]])
    cosines = cosines_of(rows)
    point = np.array([0, 0, 1, 1.0])
    x = NonnegativeProgram(cosines).project(point)
    # All that is left is the last direction. It takes 1 / 3e-7 of the first two to make up for the third.
    np.testing.assert_allclose((point + x) @ rows, [0, 0, 1], atol=1e-5)
    assert x.max() < 1e7


def test_a_solver_that_gives_up_is_asked_again(monkeypatch):
    calls = []

    def gives_up_at_first(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("Maximum number of iterations reached.")
        return nnls(*arguments, **options)

    nnls = nonnegative.nnls
    monkeypatch.setattr(nonnegative, "nnls", gives_up_at_first)
    cosines = np.array([[1.0, -1], [-1, 1]])
    np.testing.assert_allclose(NonnegativeProgram(cosines).project(np.array([1.0, 0])), [0, 1], atol=1e-9)
    assert len(calls) > 1
