import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing import FairGrad, NashMTL
from polytask.errors import UserError

from .jacobians import ALL, HARMLESS, golden_for, relative, step, tensors


def test_the_expecteds_come_out(golden):
    cases = golden_for(golden, "nash_mtl")
    assert len(cases) == 11
    for _, jacobian, parameters, expected in cases:
        assert relative(step(NashMTL(**parameters), jacobian), expected) < 1e-6


@settings(max_examples=50, deadline=None)
@given(jacobian=tensors(HARMLESS))
def test_each_task_gains_the_inverse_of_its_weight(jacobian):
    weights = NashMTL(max_norm=None).weights(jacobian @ jacobian.T)
    torch.testing.assert_close(weights * (jacobian @ (weights @ jacobian)), torch.ones_like(weights), rtol=1e-7, atol=0)


@settings(max_examples=50, deadline=None)
@given(jacobian=tensors(HARMLESS), factors=st.lists(st.floats(1e-3, 1e3), min_size=8, max_size=8))
def test_the_scales_of_the_losses_do_not_matter(jacobian, factors):
    scaled = torch.tensor(factors[: len(jacobian)])[:, None] * jacobian
    assert relative(NashMTL().combine(scaled), NashMTL().combine(jacobian)) < 1e-6


@settings(max_examples=30, deadline=None)
@given(jacobian=tensors(HARMLESS), limit=st.floats(0.1, 10))
def test_the_update_is_no_longer_than_the_limit(jacobian, limit):
    length = NashMTL(max_norm=None).combine(jacobian).norm().item()
    assert length == pytest.approx(math.sqrt(len(jacobian)), rel=1e-7)
    assert NashMTL(limit).combine(jacobian).norm().item() == pytest.approx(min(limit, length), rel=1e-7)


@settings(max_examples=30, deadline=None)
@given(jacobian=tensors(HARMLESS))
def test_without_the_limit_it_is_fairgrad_with_an_alpha_of_1(jacobian):
    gramian = jacobian @ jacobian.T
    torch.testing.assert_close(NashMTL(max_norm=None).weights(gramian), FairGrad(1.0).weights(gramian))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_it_agrees_with_torchjd(tasks):
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = torch.randn(tasks, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(tasks))
    expected = aggregation.NashMTL(n_tasks=tasks, optim_niter=100)(jacobian)
    # That solver stops at a residual of 1e-3.
    assert relative(NashMTL().combine(jacobian), expected) < 0.01


@settings(max_examples=150, deadline=None)
@given(jacobian=tensors(ALL), seed=st.integers(0, 1000))
def test_there_is_always_an_update_and_the_order_of_the_tasks_does_not_matter(jacobian, seed):
    update = NashMTL().combine(jacobian)
    assert update.norm() <= 1 + 1e-3
    lengths = jacobian.norm(dim=1)
    unit = jacobian[lengths > 0] / lengths[lengths > 0, None]
    if len(unit) and torch.linalg.eigvalsh(unit @ unit.T)[0] > 1e-4:
        order = torch.randperm(len(jacobian), generator=torch.Generator().manual_seed(seed))
        assert relative(NashMTL().combine(jacobian[order]), update) < 1e-6


def test_near_opposite_gradients_still_make_an_update_and_opposite_ones_do_not():
    torch.testing.assert_close(
        NashMTL().combine(torch.tensor([[1.0, 1e-3], [-1, 1e-3]]).double()), torch.tensor([0.0, 1]).double()
    )
    assert NashMTL().combine(torch.tensor([[2.0, 0], [-1, 0]]).double()).norm() < 1e-9


def test_one_task_zero_gradients_and_equal_ones():
    torch.testing.assert_close(NashMTL().combine(torch.tensor([[3.0, 4]])), torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(NashMTL(5.0).weights(torch.tensor([[4.0]])), torch.tensor([0.5]))
    torch.testing.assert_close(NashMTL().combine(torch.tensor([[0.0, 0], [3, 4]])), torch.tensor([0.6, 0.8]))
    assert not NashMTL().combine(torch.zeros(2, 3)).any()
    torch.testing.assert_close(NashMTL(max_norm=None).weights(torch.ones(2, 2)), torch.full((2,), math.sqrt(0.5)))


def test_tasks_can_be_absent():
    jacobian = torch.tensor([[1.0, 0], [0, 1], [-1, 1]]).double()
    balancer = NashMTL()
    balancer.prepare(["a", "b", "c"])
    found = step(balancer, jacobian[[2, 0]], ["c", "a"])
    torch.testing.assert_close(found, NashMTL().combine(jacobian[[2, 0]]))


@pytest.mark.parametrize("limit", [None, 1.0, 100.0])
def test_the_online_gradient_is_that_of_the_objective_and_0_at_the_solution(limit):
    jacobian = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gramian = jacobian @ jacobian.T
    balancer = NashMTL(limit)
    inner = torch.rand(4, generator=torch.Generator().manual_seed(1)).double().add(0.1).requires_grad_()
    (inner @ gramian @ inner / 2 - inner.log().sum()).backward()
    product = gramian @ balancer.online_direction(inner.detach())
    torch.testing.assert_close(balancer.online_gradient(inner.detach(), product), inner.grad)
    solution = NashMTL(max_norm=None).weights(gramian)
    direction = balancer.online_direction(solution)
    torch.testing.assert_close(direction, balancer.weights(gramian))
    torch.testing.assert_close(
        balancer.online_gradient(solution, gramian @ direction), torch.zeros(4).double(), atol=1e-8, rtol=0
    )


def test_bad_parameters_are_refused():
    with pytest.raises(UserError, match=r"nash_mtl: max_norm is 0, but must be above 0"):
        NashMTL(0)
