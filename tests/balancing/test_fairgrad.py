import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing import MGDA, FairGrad
from polytask.errors import UserError

from .jacobians import ALL, HARMLESS, golden_for, relative, step, tensors

alphas = st.sampled_from([0.5, 1.0, 2.0, 5.0])


def test_the_expecteds_come_out(golden):
    cases = golden_for(golden, "fairgrad")
    assert len(cases) == 11
    for _, jacobian, parameters, expected in cases:
        assert relative(step(FairGrad(**parameters), jacobian), expected) < 1e-6


@settings(max_examples=60, deadline=None)
@given(jacobian=tensors(HARMLESS), alpha=alphas)
def test_each_tasks_gain_is_a_power_of_its_weight(jacobian, alpha):
    weights = FairGrad(alpha).weights(jacobian @ jacobian.T)
    gains = jacobian @ (weights @ jacobian)
    torch.testing.assert_close(gains * weights ** (1 / alpha), torch.ones_like(gains), rtol=1e-6, atol=0)


def test_a_small_alpha_is_the_sum_and_with_a_great_one_only_the_least_gain_counts():
    jacobian = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    update = FairGrad(1e-3).combine(jacobian)
    assert torch.cosine_similarity(update, jacobian.sum(0), 0) > 0.999
    update = FairGrad(200.0).combine(jacobian)
    assert torch.cosine_similarity(update, MGDA().combine(jacobian), 0) > 0.999


@settings(max_examples=10, deadline=None)
@given(jacobian=tensors(HARMLESS[:2], most_tasks=4), alpha=st.sampled_from([1.0, 2.0]))
def test_it_agrees_with_torchjd(jacobian, alpha):
    aggregation = pytest.importorskip("torchjd.aggregation")
    expected = aggregation.FairGrad(alpha)(jacobian)
    # That solver stops where its steps are below 1e-8 of what it minimises, the square of the residual.
    assert relative(FairGrad(alpha).combine(jacobian), expected) < 1e-3


@settings(max_examples=150, deadline=None)
@given(jacobian=tensors(ALL), alpha=alphas, seed=st.integers(0, 1000))
def test_there_are_always_weights_and_the_order_of_the_tasks_does_not_matter(jacobian, alpha, seed):
    weights = FairGrad(alpha).weights(jacobian @ jacobian.T)
    assert weights.isfinite().all()
    lengths = jacobian.norm(dim=1)
    unit = jacobian[lengths > 0] / lengths[lengths > 0, None]
    if len(unit) and torch.linalg.eigvalsh(unit @ unit.T)[0] > 1e-2:
        order = torch.randperm(len(jacobian), generator=torch.Generator().manual_seed(seed))
        permuted = FairGrad(alpha).weights(jacobian[order] @ jacobian[order].T)
        torch.testing.assert_close(permuted, weights[order], rtol=1e-5, atol=0)


def test_one_task_zero_gradients_equal_and_opposite_ones():
    torch.testing.assert_close(FairGrad().weights(torch.tensor([[8.0]])), torch.tensor([8.0 ** (-2 / 3)]))
    torch.testing.assert_close(FairGrad().weights(torch.tensor([[0.0, 0], [0, 8]])), torch.tensor([0, 8.0 ** (-2 / 3)]))
    assert not FairGrad().combine(torch.zeros(2, 3)).any()
    torch.testing.assert_close(FairGrad().weights(torch.ones(2, 2)), torch.full((2,), 2.0 ** (-2 / 3)))
    assert FairGrad().combine(torch.tensor([[2.0, 0], [-1, 0]]).double()).norm() < 1e-3


def test_tasks_can_be_absent():
    jacobian = torch.tensor([[1.0, 0], [0, 1], [-1, 1]]).double()
    balancer = FairGrad()
    balancer.prepare(["a", "b", "c"])
    found = step(balancer, jacobian[[2, 0]], ["c", "a"])
    torch.testing.assert_close(found, FairGrad().combine(jacobian[[2, 0]]))


def test_the_online_gradient_is_that_of_the_objective_and_0_at_the_solution():
    jacobian = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gramian = jacobian @ jacobian.T
    balancer = FairGrad(2.0)
    inner = torch.rand(4, generator=torch.Generator().manual_seed(1)).double().add(0.1).requires_grad_()
    (inner @ gramian @ inner / 2 - 2 * inner.sqrt().sum()).backward()
    product = gramian @ balancer.online_direction(inner.detach())
    torch.testing.assert_close(balancer.online_gradient(inner.detach(), product), inner.grad)
    solution = balancer.weights(gramian)
    gradient = balancer.online_gradient(solution, gramian @ balancer.online_direction(solution))
    torch.testing.assert_close(gradient, torch.zeros(4).double(), atol=1e-8, rtol=0)


def test_bad_parameters_are_refused():
    for alpha in (0, -1.0, math.inf, math.nan):
        with pytest.raises(UserError, match=r"fairgrad: alpha is .* but must be a number above 0"):
            FairGrad(alpha)
