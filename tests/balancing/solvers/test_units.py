import numpy as np

from polytask.balancing.solvers.units import Units


def test_lengths_and_cosines_of_the_gradients_that_are_not_0():
    jacobian = np.array([[3.0, 0], [0, 0], [1, 1]])
    units = Units(jacobian @ jacobian.T)
    assert units.kept.tolist() == [0, 2]
    np.testing.assert_allclose(units.lengths, [3, np.sqrt(2)])
    np.testing.assert_allclose(units.cosines, [[1, np.sqrt(0.5)], [np.sqrt(0.5), 1]])
    np.testing.assert_allclose(units.spread(np.array([6.0, 2])), [2, 0, np.sqrt(2)])


def test_rounding_leaves_no_cosine_above_1_and_no_length_of_a_negative_square():
    units = Units(np.array([[1.0, 1 + 1e-12, 0], [1 + 1e-12, 1, 0], [0, 0, -1e-20]]))
    assert units.kept.tolist() == [0, 1]
    assert units.cosines.max() == 1


def test_equal_gradients_share_their_weights_and_parallel_ones_of_other_lengths_do_not():
    jacobian = np.array([[1.0, 2], [1, 2], [2, 4]])
    units = Units(jacobian @ jacobian.T)
    spread = units.spread(np.array([1.0, 0, 1]))
    np.testing.assert_allclose(spread, np.array([0.5, 0.5, 0.5]) / np.sqrt(5))
    spread = units.spread(np.array([1.0, 0, 0]))
    np.testing.assert_allclose(spread, np.array([0.5, 0.5, 0]) / np.sqrt(5))
