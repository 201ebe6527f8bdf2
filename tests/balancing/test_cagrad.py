import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from polytask.balancing import MGDA, CAGrad
from polytask.errors import UserError

from .jacobians import ALL, HARMLESS, golden_for, relative, step, tensors

INEXACT = {"scales_6x25": 3e-6}
"""Golden numbers that are off: their least product falls short of the dual bound, which ours reaches."""


def test_the_expecteds_come_out(golden):
    cases = golden_for(golden, "cagrad")
    assert len(cases) == 11
    for name, jacobian, parameters, expected in cases:
        found = step(CAGrad(**parameters, rescale=0), jacobian)
        assert relative(found, expected) < INEXACT.get(name, 1e-6)
        assert (jacobian @ found).min() >= (jacobian @ expected).min() - 1e-12 * found.norm() * jacobian.norm()


def test_rescaling_divides_the_update():
    jacobian = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = CAGrad(0.5, rescale=0).combine(jacobian)
    torch.testing.assert_close(CAGrad(0.5).combine(jacobian), plain / 1.25)
    torch.testing.assert_close(CAGrad(0.5, rescale=2).combine(jacobian), plain / 1.5)


@settings(max_examples=50, deadline=None)
@given(jacobian=tensors(ALL), rescale=st.sampled_from([0, 1, 2]))
def test_with_c_of_0_it_is_the_mean(jacobian, rescale):
    torch.testing.assert_close(CAGrad(0.0, rescale).combine(jacobian), jacobian.mean(0))


@settings(max_examples=100, deadline=None)
@given(jacobian=tensors(ALL), c=st.sampled_from([0.1, 0.4, 0.9]), seed=st.integers(0, 1000))
def test_no_update_in_the_ball_has_a_greater_least_product(jacobian, c, seed):
    lengths, mean = jacobian.norm(dim=1), jacobian.mean(0)
    kept = lengths > 0
    assume(mean.norm() > 1e-6 * lengths.max())
    update = CAGrad(c, rescale=0).combine(jacobian)
    size = c * mean.norm()
    assert (update - mean).norm() <= size * (1 + 1e-9)
    generator = torch.Generator().manual_seed(seed)
    for spread in (1.0, 0.1, 0.001):
        other = update + spread * size * torch.randn(len(mean), dtype=torch.float64, generator=generator)
        other = mean + (other - mean) * min(1.0, float(size / (other - mean).norm()))
        gain = (jacobian @ other)[kept].min() - (jacobian @ update)[kept].min()
        assert gain <= 1e-8 * mean.norm() * lengths.max()


@settings(max_examples=10, deadline=None)
@given(jacobian=tensors(HARMLESS[:2], most_tasks=5), c=st.sampled_from([0.2, 0.5]))
def test_it_agrees_with_torchjd(jacobian, c):
    aggregation = pytest.importorskip("torchjd.aggregation")
    expected = aggregation.CAGrad(c, norm_eps=1e-12)(jacobian)
    assert relative(CAGrad(c, rescale=0).combine(jacobian), expected) < 1e-3


def test_a_great_c_goes_where_mgda_does():
    jacobian = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    update = CAGrad(1e6).combine(jacobian)
    assert torch.cosine_similarity(update, MGDA().combine(jacobian), 0) > 1 - 1e-9


@settings(max_examples=50, deadline=None)
@given(jacobian=tensors(HARMLESS), seed=st.integers(0, 1000))
def test_the_order_of_the_tasks_does_not_matter(jacobian, seed):
    order = torch.randperm(len(jacobian), generator=torch.Generator().manual_seed(seed))
    assert relative(CAGrad().combine(jacobian[order]), CAGrad().combine(jacobian)) < 1e-7


def test_one_task_zero_gradients_equal_and_opposite_ones():
    torch.testing.assert_close(CAGrad(0.5, 0).combine(torch.tensor([[2.0, 0]])), torch.tensor([3.0, 0]))
    torch.testing.assert_close(CAGrad(0.5, 0).combine(torch.tensor([[2.0, 0], [0, 0]])), torch.tensor([1.5, 0]))
    torch.testing.assert_close(CAGrad(0.5, 0).weights(torch.ones(2, 2)), torch.full((2,), 0.75))
    assert not CAGrad().combine(torch.tensor([[2.0, 0], [-2, 0]])).any()
    assert not CAGrad().combine(torch.zeros(2, 2)).any()


def test_tasks_can_be_absent():
    jacobian = torch.tensor([[1.0, 0], [0, 1], [-1, 1]]).double()
    balancer = CAGrad()
    balancer.prepare(["a", "b", "c"])
    found = step(balancer, jacobian[[2, 0]], ["c", "a"])
    torch.testing.assert_close(found, CAGrad().combine(jacobian[[2, 0]]))


def online(balancer, gramian, inner, steps, rate=0.1):
    """Steps on the simplex along the online gradient, multiplied; gives the inner weights and the last direction."""
    for _ in range(steps):
        direction = balancer.online_direction(inner)
        product = gramian @ direction
        gradient = balancer.online_gradient(inner, product)
        balancer.observe_online(inner, product)
        inner = (inner.log() - rate * gradient / gramian.diagonal().mean()).softmax(0)
    return inner, direction


def test_the_online_gradient_is_that_of_the_objective_with_the_right_share():
    jacobian = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gramian, mean = jacobian @ jacobian.T, jacobian.mean(0)
    balancer = CAGrad(0.4)
    inner = torch.rand(4, generator=torch.Generator().manual_seed(1)).double().softmax(0)
    # The first step is plain and measures the mean.
    direction = balancer.online_direction(inner)
    torch.testing.assert_close(direction @ jacobian, mean / 1.16)
    assert not balancer.online_gradient(inner, gramian @ direction).any()
    balancer.observe_online(inner, gramian @ direction)
    balancer.share = torch.tensor(0.4) * mean.norm() / (inner @ jacobian).norm()
    inner.requires_grad_()
    combined = inner @ jacobian
    (combined @ mean + 0.4 * mean.norm() * combined.norm()).backward()
    direction = balancer.online_direction(inner.detach())
    gradient = balancer.online_gradient(inner.detach(), gramian @ direction)
    torch.testing.assert_close(gradient, inner.grad)
    # Nothing changes about a share that is right.
    before = balancer.share.clone()
    balancer.observe_online(inner.detach(), gramian @ direction)
    torch.testing.assert_close(balancer.share, before)


def test_online_steps_come_to_the_solution_and_can_be_continued():
    jacobian = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    jacobian[0] -= jacobian[1]
    gramian, start = jacobian @ jacobian.T, torch.full((3,), 1 / 3).double()
    balancer = CAGrad(0.4)
    inner, direction = online(balancer, gramian, start, 999)
    assert relative(direction, balancer.weights(gramian)) < 1e-3
    first = CAGrad(0.4)
    inner, _ = online(first, gramian, start, 15)
    continued = CAGrad(0.4)
    continued.load_state_dict(first.state_dict())
    expected, found = online(first, gramian, inner, 15), online(continued, gramian, inner, 15)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_share_finds_back_from_where_nothing_is_wanted():
    balancer, inner = CAGrad(0.4), torch.full((2,), 0.5).double()
    opposite = torch.tensor([[1.0, -1], [-1, 1]]).double()
    online(balancer, opposite, inner, 100)
    online(balancer, torch.zeros(2, 2).double() + 1e-30, inner, 100)
    assert 0 < balancer.share < math.inf
    _, direction = online(balancer, torch.eye(2).double(), inner, 109)
    assert relative(direction, balancer.weights(torch.eye(2).double())) < 1e-3


def test_bad_parameters_are_refused():
    with pytest.raises(UserError, match=r"cagrad: c is -0.1, but must be a number of at least 0"):
        CAGrad(-0.1)
    with pytest.raises(UserError, match=r"cagrad: rescale is 3, but must be 0, 1 or 2"):
        CAGrad(rescale=3)
