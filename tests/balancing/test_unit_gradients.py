import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.unit_gradients import projecting


def random_jacobian(seed, tasks, size):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def units(jacobian):
    return torch.nn.functional.normalize(jacobian, dim=1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), tasks=st.integers(1, 8), powers=st.lists(st.integers(-6, 6), min_size=8))
def test_the_projections_are_those_wanted_however_different_the_lengths(seed, tasks, powers):
    lengths = 10.0 ** torch.tensor(powers[:tasks], dtype=torch.float64)
    jacobian = lengths[:, None] * random_jacobian(seed, tasks, 20)
    wanted = 0.5 + torch.rand(tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    weights = projecting(jacobian @ jacobian.T, wanted)
    torch.testing.assert_close(units(jacobian) @ (weights @ jacobian), wanted, rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), tasks=st.integers(3, 8))
def test_where_there_is_no_solution_it_is_the_nearest_by_the_pseudo_inverse(seed, tasks):
    jacobian = random_jacobian(seed, tasks, 2)
    wanted = torch.ones(tasks, dtype=torch.float64)
    expected = torch.linalg.pinv(units(jacobian)) @ wanted
    torch.testing.assert_close(projecting(jacobian @ jacobian.T, wanted) @ jacobian, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_nothing_is_left_for_opposite_gradients(factor):
    g = random_jacobian(0, 1, 5)[0]
    jacobian = torch.stack([g, -factor * g])
    wanted = torch.ones(2, dtype=torch.float64)
    assert torch.equal(projecting(jacobian @ jacobian.T, wanted), torch.zeros_like(wanted))


def test_gradients_of_zero_get_nothing():
    jacobian = random_jacobian(0, 3, 5)
    jacobian[1] = 0
    wanted = torch.ones(3, dtype=torch.float64)
    weights = projecting(jacobian @ jacobian.T, wanted)
    assert weights[1] == 0
    torch.testing.assert_close(weights[[0, 2]], projecting(jacobian[[0, 2]] @ jacobian[[0, 2]].T, wanted[:2]))
    assert torch.equal(projecting(0 * jacobian @ jacobian.T, wanted), torch.zeros_like(wanted))


def test_the_noise_of_float32_is_no_direction():
    jacobian = random_jacobian(1, 2, 2000)[[0, 1, 0, 1]].float() * torch.tensor([1.0, 1.0, 1 / 3, 7.0])[:, None]
    gramian = (jacobian @ jacobian.T).double()
    weights = projecting(gramian, torch.ones(4, dtype=torch.float64))
    lengths = jacobian.double().norm(dim=1)
    torch.testing.assert_close((weights * lengths)[:2], (weights * lengths)[2:], rtol=1e-4, atol=1e-4)
