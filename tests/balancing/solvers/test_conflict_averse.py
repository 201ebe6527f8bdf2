import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from polytask.balancing.solvers.conflict_averse import conflict_averse
from polytask.balancing.solvers.dual_cone import dual_cone

from ..jacobians import ALL, jacobians, lengths


@settings(max_examples=300, deadline=None)
@given(jacobian=jacobians(ALL), radius=st.sampled_from([0.05, 0.4, 0.9, 1.5]))
def test_the_least_product_is_as_great_as_the_dual_problem_allows(jacobian, radius):
    size, mean = lengths(jacobian), jacobian.mean(0)
    length = np.linalg.norm(mean)
    assume(length > 1e-6 * size.max())
    added = conflict_averse(jacobian @ jacobian.T, radius)
    assert added.min() >= 0
    assert not added[size == 0].any()
    update = mean + added @ jacobian
    kept = size > 0
    cosines = jacobian[kept] @ update / size[kept] / length
    distance = np.linalg.norm(update - mean) / length
    assert distance <= radius * (1 + 1e-9)
    if distance < radius * (1 - 1e-6):
        # No product is above 0 in any direction, and none is below 0 here.
        assert cosines.min() >= -1e-9
        return
    weights = added / added.sum()
    combined = weights @ jacobian
    level = (combined @ mean + radius * length * np.linalg.norm(combined)) / length
    parts = (added * size)[kept] / length
    excess = cosines - level / size[kept]
    assert excess.min() >= -1e-8
    assert np.abs(excess * parts).max() <= 1e-8 * max(1.0, parts.max())


def test_without_a_radius_or_without_a_mean_nothing_is_added():
    jacobian = np.array([[1.0, 0], [0, 1]])
    assert not conflict_averse(jacobian @ jacobian.T, 0.0).any()
    for rows in ([[1.0, 0], [-1, 0]], [[0.0, 0], [0, 0]]):
        jacobian = np.array(rows)
        assert not conflict_averse(jacobian @ jacobian.T, 0.4).any()


def test_where_gradients_cancel_it_is_the_nearest_direction_without_conflict_if_the_radius_allows_it():
    jacobian = np.array([[1.0, 0], [-1, 0], [0.5, 1]])
    gramian = jacobian @ jacobian.T
    nearest = dual_cone(gramian, np.full((1, 3), 1 / 3))[0] @ jacobian
    np.testing.assert_allclose(nearest, [0, 1 / 3], atol=1e-12)
    np.testing.assert_allclose((1 / 3 + conflict_averse(gramian, 0.9)) @ jacobian, nearest, atol=1e-12)
    # Too far away for this one, which goes towards it.
    mean = jacobian.mean(0)
    expected = mean + 0.4 * np.linalg.norm(mean) * np.array([-1, 0])
    np.testing.assert_allclose((1 / 3 + conflict_averse(gramian, 0.4)) @ jacobian, expected, atol=1e-9)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_factor_on_all_gradients_changes_nothing(factor):
    jacobian = np.random.default_rng(0).normal(size=(4, 5))
    gramian = jacobian @ jacobian.T
    np.testing.assert_allclose(conflict_averse(factor**2 * gramian, 0.4), conflict_averse(gramian, 0.4), rtol=1e-9)


def test_two_hundred_tasks():
    for columns in (40, 600):
        jacobian = np.random.default_rng(0).normal(size=(200, columns))
        mean = jacobian.mean(0)
        update = mean + conflict_averse(jacobian @ jacobian.T, 0.4) @ jacobian
        assert np.linalg.norm(update - mean) == pytest.approx(0.4 * np.linalg.norm(mean), rel=1e-9)
        assert (jacobian @ update).min() > (jacobian @ mean).min()
