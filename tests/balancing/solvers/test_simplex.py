import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polytask.balancing.solvers.simplex import onto_simplex


@given(point=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10))
def test_the_nearest_point_is_the_point_less_one_number_and_cut_at_0(point):
    point = np.array(point)
    nearest = onto_simplex(point)
    assert nearest.min() >= 0
    assert np.isclose(nearest.sum(), 1)
    shifts = point - nearest
    used = nearest > 0
    np.testing.assert_allclose(shifts[used], shifts[used][0], rtol=1e-12, atol=1e-9)
    assert (point[~used] <= shifts[used][0] + 1e-9 * (1 + np.abs(point).max())).all()


def test_hand_worked_points():
    np.testing.assert_allclose(onto_simplex(np.array([0.2, 0.3, 0.5])), [0.2, 0.3, 0.5])
    np.testing.assert_allclose(onto_simplex(np.array([1.0, 1.0])), [0.5, 0.5])
    np.testing.assert_allclose(onto_simplex(np.array([3.0, 2.5, 0])), [0.75, 0.25, 0])
    np.testing.assert_allclose(onto_simplex(np.array([1e15, 0])), [1, 0])
