import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from polytask.balancing.solvers.fairness import fairness
from polytask.balancing.solvers.min_norm import min_norm

from ..jacobians import ALL, HARMLESS, NEVER_ZERO, jacobians, lengths

powers = st.sampled_from([0.2, 0.5, 1.0, 1.0001, 2.0, 5.0])


@settings(max_examples=200, deadline=None)
@given(jacobian=jacobians(NEVER_ZERO), power=powers)
def test_the_weights_balance_what_the_tasks_get(jacobian, power):
    gramian, size = jacobian @ jacobian.T, lengths(jacobian)
    cosines = gramian / size / size[:, None]
    shares = min_norm(cosines)
    assume(shares @ cosines @ shares > 0.001)
    weights = fairness(gramian, power)
    wanted = weights**-power
    allowed = 1e-9 * wanted + 1e-14 * len(size) * (np.abs(gramian) @ weights)
    own = size**2 * weights
    if (own > 1e9 * wanted).any():
        # More digits cancel than there are, and gradients are given another part.
        allowed += 1.1e-10 * own
    assert (np.abs(gramian @ weights - wanted) <= allowed).all()


@settings(max_examples=300, deadline=None)
@given(jacobian=jacobians(ALL), power=powers, noisy=st.booleans())
def test_there_are_always_weights_above_0(jacobian, power, noisy):
    gramian, size = jacobian @ jacobian.T, lengths(jacobian)
    if noisy:
        gramian = gramian.astype(np.float32).astype(float)
    weights = fairness(gramian, power)
    assert np.isfinite(weights).all()
    assert (weights > 0).tolist() == (size > 0).tolist()


@settings(max_examples=50, deadline=None)
@given(jacobian=jacobians(HARMLESS), power=powers, factor=st.floats(1e-6, 1e6))
def test_a_factor_on_all_gradients_is_a_power_of_it_on_the_weights(jacobian, power, factor):
    gramian = jacobian @ jacobian.T
    scaled = fairness(factor**2 * gramian, power)
    np.testing.assert_allclose(scaled, fairness(gramian, power) * factor ** (-2 / (1 + power)), rtol=1e-8)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_gradients_at_right_angles_are_independent(power):
    np.testing.assert_allclose(fairness(np.diag([4.0, 9]), power), np.array([4.0, 9]) ** (-1 / (1 + power)))


def test_opposite_gradients_get_the_weights_of_gradients_that_are_nearly_so():
    jacobian = np.array([[2.0, 0], [-2, 0]])
    np.testing.assert_allclose(fairness(jacobian @ jacobian.T, 1.0), 1e5 / 2, rtol=1e-6)
    nearly = np.array([[2.0, 2e-4], [-2, 2e-4]])
    np.testing.assert_allclose(fairness(nearly @ nearly.T, 1.0), [1 / (2e-4 * np.sqrt(2))] * 2, rtol=1e-6)


def test_a_matrix_that_no_gradients_have_still_gives_finite_weights():
    for seed in range(50):
        matrix = np.random.default_rng(seed).normal(size=(5, 5))
        matrix = matrix + matrix.T
        np.fill_diagonal(matrix, 1)
        assert np.isfinite(fairness(matrix, 1.0)).all()


def test_two_hundred_tasks():
    jacobian = np.random.default_rng(0).normal(size=(200, 600))
    gramian = jacobian @ jacobian.T
    weights = fairness(gramian, 1.0)
    np.testing.assert_allclose(gramian @ weights, 1 / weights, rtol=1e-8)
