import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing import MGDA
from polytask.errors import UserError

from .jacobians import ALL, HARMLESS, golden_for, relative, step, tensors

SCALINGS = ("none", "l2", "loss", "loss+")


def test_the_expecteds_come_out(golden):
    cases = golden_for(golden, "mgda")
    assert len(cases) == 11
    for _, jacobian, parameters, expected in cases:
        assert relative(step(MGDA(**parameters), jacobian), expected) < 1e-6


@settings(max_examples=100, deadline=None)
@given(jacobian=tensors(ALL))
def test_the_update_goes_down_for_all_tasks_that_have_a_gradient(jacobian):
    update = MGDA().combine(jacobian)
    lengths = jacobian.norm(dim=1)
    kept = lengths > 0
    excess = (jacobian @ update - update.square().sum())[kept] / lengths[kept]
    assert (excess >= -1e-9 * (MGDA().weights(jacobian @ jacobian.T) * lengths).max()).all()


@settings(max_examples=10, deadline=None)
@given(jacobian=tensors(HARMLESS, most_tasks=4))
def test_it_agrees_with_the_frank_wolfe_steps_of_torchjd(jacobian):
    aggregation = pytest.importorskip("torchjd.aggregation")
    expected = aggregation.MGDAWeighting(epsilon=1e-6, max_iters=500)(jacobian @ jacobian.T) @ jacobian
    update = MGDA().combine(jacobian)
    assert update.norm() <= expected.norm() * (1 + 1e-9)
    # However early those steps end, the shortest combination lies within the square root of their duality gap.
    gap = expected.square().sum() - (jacobian @ expected).min()
    assert (update - expected).square().sum() <= gap + 1e-12 * jacobian.square().sum()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_gradients_have_the_shortest_combination(scaling):
    jacobian = torch.tensor([[3.0, 1, 0], [-1, 2, 1], [0.5, -1, 2]]).double()
    losses = torch.tensor([2.0, 0.5, 4]).double()
    divisors = {"none": 1, "l2": jacobian.norm(dim=1), "loss": losses, "loss+": losses * jacobian.norm(dim=1)}[scaling]
    scaled = jacobian / (divisors * torch.ones(3))[:, None]
    expected = MGDA().combine(scaled)
    balancer = MGDA(scaling)
    torch.testing.assert_close(step(balancer, jacobian, losses=losses.tolist()), expected)
    shares = MGDA().weights(scaled @ scaled.T)
    torch.testing.assert_close(balancer.last.weight_values, shares / divisors)
    unscaled = MGDA(scaling, unscaled=True)
    torch.testing.assert_close(step(unscaled, jacobian, losses=losses.tolist()), shares @ jacobian)


@settings(max_examples=30, deadline=None)
@given(jacobian=tensors(HARMLESS), factors=st.lists(st.floats(0.01, 100), min_size=8, max_size=8))
def test_with_gradients_of_one_length_the_scales_of_the_losses_do_not_matter(jacobian, factors):
    scaled = torch.tensor(factors[: len(jacobian)])[:, None] * jacobian
    assert relative(MGDA("l2").combine(scaled), MGDA("l2").combine(jacobian)) < 1e-6


@settings(max_examples=50, deadline=None)
@given(jacobian=tensors(ALL), seed=st.integers(0, 1000), scaling=st.sampled_from(["none", "l2"]))
def test_the_order_of_the_tasks_does_not_matter(jacobian, seed, scaling):
    order = torch.randperm(len(jacobian), generator=torch.Generator().manual_seed(seed))
    update, size = MGDA(scaling).combine(jacobian), jacobian.norm(dim=1).max() if scaling == "none" else 1.0
    torch.testing.assert_close(MGDA(scaling).combine(jacobian[order]), update, rtol=1e-6, atol=float(1e-7 * size))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_one_gradient_or_loss_of_0_does_not_stop_the_others(scaling):
    jacobian = torch.tensor([[0.0, 0], [1, 2]]).double()
    alone = step(MGDA(scaling), jacobian[1:], losses=[3.0])
    torch.testing.assert_close(step(MGDA(scaling), jacobian, losses=[3.0, 3.0]), alone)
    assert alone.any()
    if "loss" in scaling:
        jacobian = torch.tensor([[1.0, -1], [1, 2]]).double()
        torch.testing.assert_close(step(MGDA(scaling), jacobian, losses=[0.0, 3.0]), alone)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_where_all_gradients_are_0_there_is_no_update(scaling):
    assert not step(MGDA(scaling), torch.zeros(2, 3).double(), losses=[1.0, 1.0]).any()


def test_one_task_alone_has_its_gradient_and_equal_tasks_have_equal_weights():
    jacobian = torch.tensor([[1.0, 2]])
    torch.testing.assert_close(MGDA().combine(jacobian), jacobian[0])
    torch.testing.assert_close(MGDA().weights(torch.ones(2, 2)), torch.full((2,), 0.5))


def test_tasks_can_be_absent():
    jacobian = torch.tensor([[1.0, 0], [0, 1], [-1, 1]]).double()
    balancer = MGDA("loss")
    balancer.prepare(["a", "b", "c"])
    found = step(balancer, jacobian[[2, 0]], ["c", "a"], [2.0, 1.0])
    torch.testing.assert_close(found, step(MGDA("loss"), jacobian[[2, 0]], losses=[2.0, 1.0]))
    assert list(balancer.last.weights) == ["c", "a"]


def test_the_online_gradient_is_that_of_half_the_square():
    gramian = torch.tensor([[2.0, -1], [-1, 4]])
    inner = torch.tensor([0.3, 0.7])
    product = gramian @ MGDA().online_direction(inner)
    torch.testing.assert_close(MGDA().online_gradient(inner, product), gramian @ inner)


def test_a_negative_loss_cannot_be_divided_by():
    with pytest.raises(UserError, match=r"that of task 'b' is negative"):
        step(MGDA("loss"), torch.eye(2).double(), ["a", "b"], [1.0, -1.0])
    with pytest.raises(UserError, match="needs the losses"):
        MGDA("loss+").combine(torch.eye(2))


def test_bad_parameters_are_refused():
    with pytest.raises(UserError, match=r"mgda: scaling is 'L2', but must be"):
        MGDA("L2")
    with pytest.raises(UserError, match=r"mgda: matrix_free does not know"):
        MGDA("l2", matrix_free=True)
