import numpy as np
from hypothesis import given, settings

from polytask.balancing.solvers.min_norm import min_norm

from ..jacobians import ALL, jacobians, lengths


@settings(max_examples=300, deadline=None)
@given(jacobian=jacobians(ALL))
def test_no_gradient_has_a_lower_product_with_the_shortest_vector_than_this_with_itself(jacobian):
    gramian = jacobian @ jacobian.T
    weights = min_norm(gramian)
    size = lengths(jacobian)
    kept = size > 0
    assert weights.min() >= 0
    assert np.isclose(weights.sum(), 1, rtol=1e-12)
    if not kept.any():
        return
    assert not weights[~kept].any()
    products, square = (gramian @ weights)[kept], weights @ gramian @ weights
    # In units of each gradient, and of what the combination is made of.
    parts = (weights * size)[kept]
    excess = (products - square) / size[kept]
    assert excess.min() >= -1e-12 * parts.max()
    assert np.abs(excess * parts).max() <= 1e-12 * parts.max() ** 2


def test_hand_worked_cases():
    for rows, expected in [
        ([[2.0, 0]], [1]),
        ([[1, 0], [0, 1]], [0.5, 0.5]),
        ([[1, 0], [3, 0]], [1, 0]),
        ([[1, 0], [-3, 0]], [0.75, 0.25]),
        ([[2, 0], [0, 1]], [0.2, 0.8]),
        ([[1, 0], [0, 0]], [1, 0]),
        ([[0, 0], [0, 0]], [0.5, 0.5]),
        ([[1, 1], [1, 1], [-1, 1]], [0.25, 0.25, 0.5]),
    ]:
        jacobian = np.array(rows, dtype=float)
        np.testing.assert_allclose(min_norm(jacobian @ jacobian.T), expected, atol=1e-12)


def test_two_hundred_tasks():
    for size in (40, 600):
        jacobian = np.random.default_rng(0).normal(size=(200, size))
        gramian = jacobian @ jacobian.T
        weights = min_norm(gramian)
        square = weights @ gramian @ weights
        assert (gramian @ weights - square).min() >= -1e-10 * gramian.max()
        assert (square < 1e-12) == (size == 40)
