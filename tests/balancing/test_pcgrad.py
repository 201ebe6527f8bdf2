import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.pcgrad import PCGrad, projected

seeds = st.integers(0, 10_000)


def random_jacobian(seed, tasks, size=7, scales=None):
    jacobian = torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return jacobian if scales is None else torch.tensor(scales, dtype=torch.float64)[:, None] * jacobian


def surgery(jacobian, orders):
    """The paper's algorithm, on the gradients themselves."""
    update = torch.zeros_like(jacobian[0])
    for i, order in enumerate(orders):
        changed = jacobian[i].clone()
        for j in order:
            product = changed @ jacobian[j]
            if product < 0:
                changed -= product / (jacobian[j] @ jacobian[j]) * jacobian[j]
        update += changed
    return update


def step(balancer, jacobian, names=None):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    names = names or [str(i) for i in range(len(jacobian))]
    balancer.backward(dict(zip(names, jacobian @ theta, strict=True)), [theta])
    return theta.grad


def test_two_tasks_give_the_golden_numbers(golden):
    cases = [(case, e) for case in golden for e in case["expected"] if e["method"] == "pcgrad"]
    assert len(cases) == 2
    for case, expected in cases:
        jacobian = torch.tensor(case["jacobian"], dtype=torch.float64)
        weights = torch.tensor(expected["weights"], dtype=torch.float64)
        torch.testing.assert_close(PCGrad().weights(jacobian @ jacobian.T), weights, rtol=1e-9, atol=0)
        update = torch.tensor(expected["update"], dtype=torch.float64)
        torch.testing.assert_close(step(PCGrad(), jacobian), update, rtol=1e-6, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, tasks=st.integers(1, 6))
def test_the_weights_are_those_of_surgery_on_the_gradients_themselves(seed, tasks):
    jacobian = random_jacobian(seed, tasks, size=3)
    balancer = PCGrad(seed)
    expected = surgery(jacobian, balancer.orders.draw(tasks).tolist())
    torch.testing.assert_close(balancer.combine(jacobian), expected, rtol=1e-9, atol=1e-9)


def test_two_tasks_agree_with_torchjd():
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(20):
        jacobian = random_jacobian(seed, 2, size=3)
        torch.testing.assert_close(PCGrad().combine(jacobian), aggregation.PCGrad()(jacobian))


def test_more_tasks_take_one_of_the_orders_that_torchjd_takes():
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = torch.tensor([[1, 0, 0.1], [-0.5, 0.9, 0], [-0.4, -0.8, 0.2]], dtype=torch.float64)
    every = list(itertools.product(*(itertools.permutations({0, 1, 2} - {i}) for i in range(3))))
    possible = torch.stack([surgery(jacobian, orders) for orders in every])
    assert len(possible.unique(dim=0)) > 2
    balancer, met = PCGrad(), set()
    for _ in range(60):
        ours, theirs = step(balancer, jacobian), aggregation.PCGrad()(jacobian)
        for update in (ours, theirs):
            assert (possible - update).abs().amax(1).min() < 1e-12
        met.add(tuple(ours.round(decimals=9).tolist()))
    assert len(met) == len(possible.round(decimals=9).unique(dim=0))


@settings(max_examples=30, deadline=None)
@given(seed=seeds, tasks=st.integers(1, 8))
def test_without_conflict_it_is_the_sum(seed, tasks):
    jacobian = random_jacobian(seed, tasks).abs()
    assert torch.equal(PCGrad().weights(jacobian @ jacobian.T), torch.ones(tasks, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(seed=seeds, scale=st.sampled_from([1e-6, 1.0, 1e6]), other=st.sampled_from([1e-6, 1.0, 1e6]))
def test_two_tasks_do_not_conflict_with_the_result_at_any_scale(seed, scale, other):
    jacobian = random_jacobian(seed, 2, scales=[scale, other])
    update = PCGrad().combine(jacobian)
    assert (jacobian @ update >= -1e-9 * jacobian.norm(dim=1) * update.norm()).all()


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_the_order_of_two_tasks_does_not_matter(seed):
    jacobian = random_jacobian(seed, 2)
    torch.testing.assert_close(step(PCGrad(), jacobian.flip(0)), step(PCGrad(), jacobian))


@settings(max_examples=20, deadline=None)
@given(seed=seeds, factor=st.sampled_from([1e-12, 1e-3, 1e12]))
def test_a_factor_for_all_losses_changes_no_weight(seed, factor):
    jacobian = random_jacobian(seed, 5, size=4)
    gramian = jacobian @ jacobian.T
    torch.testing.assert_close(PCGrad().weights(factor * gramian), PCGrad().weights(gramian))


def test_one_task_alone_keeps_its_gradient():
    jacobian = random_jacobian(0, 1)
    torch.testing.assert_close(step(PCGrad(), jacobian), jacobian[0])


def test_a_gradient_of_zero_changes_nothing_for_the_others():
    jacobian = random_jacobian(1, 3)
    jacobian[1] = 0
    weights = PCGrad().weights(jacobian @ jacobian.T)
    two = PCGrad().weights(jacobian[[0, 2]] @ jacobian[[0, 2]].T)
    torch.testing.assert_close(weights[[0, 2]], two)
    assert weights[1] == 1
    assert torch.equal(PCGrad().weights(torch.zeros(3, 3)), torch.ones(3))


def test_opposite_gradients_cancel_and_equal_ones_add_up():
    g = random_jacobian(2, 1)[0]
    torch.testing.assert_close(PCGrad().combine(torch.stack([g, -3 * g])), torch.zeros_like(g))
    torch.testing.assert_close(PCGrad().combine(torch.stack([g, g, g])), 3 * g)


def test_weights_can_be_asked_for_again_and_a_step_renews_the_orders():
    gramian = torch.tensor([[1, -0.9, -0.6], [-0.9, 1, 0.2], [-0.6, 0.2, 1]], dtype=torch.float64)
    balancer = PCGrad()
    found = []
    for _ in range(10):
        weights = balancer.weights(gramian)
        assert torch.equal(balancer.weights(gramian), weights)
        balancer.observe(gramian, weights)
        found.append(weights)
    assert len(torch.stack(found).unique(dim=0)) > 1


def test_the_gramian_is_left_as_it_is_and_its_type_kept():
    gramian = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    before = gramian.clone()
    weights = PCGrad().weights(gramian)
    assert weights.dtype == torch.float32
    assert torch.equal(gramian, before)
    torch.testing.assert_close(weights, torch.tensor([1.5, 1.5]))


def test_a_hand_worked_order():
    jacobian = torch.tensor([[1.0, 0], [-1, 1], [-1, -1]], dtype=torch.float64)
    weights = projected(jacobian @ jacobian.T, torch.tensor([[1, 2], [0, 2], [0, 1]]))
    # (1, 0) -> (1/2, 1/2) -> 0; (-1, 1) -> (0, 1) -> (-1/2, 1/2); (-1, -1) -> (0, -1) -> (-1/2, -1/2).
    torch.testing.assert_close(weights @ jacobian, torch.tensor([-1.0, 0], dtype=torch.float64))


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, steps):
        found = []
        for i in steps:
            names = list("abcde") if i % 3 else list("ace")
            found.append(step(balancer, random_jacobian(i, len(names), size=3), names))
        return found

    whole = train(PCGrad(), range(8))
    first, second = PCGrad(), PCGrad(seed=9)
    train(first, range(4))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for ours, expected in zip(train(second, range(4, 8)), whole[4:], strict=True):
        assert torch.equal(ours, expected)
