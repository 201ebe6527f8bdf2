import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.con_fig import ConFIG
from polytask.errors import UserError

seeds = st.integers(0, 10_000)


def random_jacobian(seed, tasks, size=20):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, names=None):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    names = names or [str(i) for i in range(len(jacobian))]
    balancer.backward(dict(zip(names, jacobian @ theta, strict=True)), [theta])
    return theta.grad


def test_the_golden_updates_come_out(golden):
    cases = [(case, e) for case in golden for e in case["expected"] if e["method"] == "con_fig"]
    assert len(cases) == 11
    for case, expected in cases:
        jacobian = torch.tensor(case["jacobian"], dtype=torch.float64)
        update = torch.tensor(expected["update"], dtype=torch.float64)
        torch.testing.assert_close(step(ConFIG(), jacobian), update, rtol=1e-8, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, tasks=st.integers(1, 8), size=st.sampled_from([2, 20]))
def test_it_agrees_with_torchjd(seed, tasks, size):
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = random_jacobian(seed, tasks, size)
    if size < tasks and torch.linalg.svdvals(torch.nn.functional.normalize(jacobian, dim=1))[-1] < 0.1:
        return
    torch.testing.assert_close(ConFIG().combine(jacobian), aggregation.ConFIG()(jacobian), rtol=1e-4, atol=1e-6)
    preference = [1.0 + task for task in range(tasks)]
    expected = aggregation.ConFIG(torch.tensor(preference, dtype=torch.float64))(jacobian)
    torch.testing.assert_close(ConFIG(preference).combine(jacobian), expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, tasks=st.integers(1, 8), powers=st.lists(st.integers(-6, 6), min_size=8))
def test_the_cosines_are_equal_and_the_length_is_that_of_the_projections_at_any_scale(seed, tasks, powers):
    lengths = 10.0 ** torch.tensor(powers[:tasks], dtype=torch.float64)
    jacobian = lengths[:, None] * random_jacobian(seed, tasks)
    update = ConFIG().combine(jacobian)
    cosines = torch.cosine_similarity(jacobian, update[None], dim=1)
    torch.testing.assert_close(cosines, cosines.mean().expand(tasks), rtol=1e-6, atol=0)
    assert (cosines > 0).all()
    direction = update / update.norm()
    assert (jacobian @ direction).sum().item() == pytest.approx(update.norm().item(), rel=1e-6)


def test_the_cosines_are_in_proportion_to_the_preference():
    jacobian = random_jacobian(0, 3)
    balancer = ConFIG({"b": 2, "a": 1, "c": 5})
    balancer.prepare(["a", "b", "c"])
    update = step(balancer, jacobian, ["a", "b", "c"])
    cosines = torch.cosine_similarity(jacobian, update[None], dim=1)
    torch.testing.assert_close(cosines / cosines[0], torch.tensor([1.0, 2, 5], dtype=torch.float64))
    update = step(balancer, jacobian[:2], ["c", "b"])
    cosines = torch.cosine_similarity(jacobian[:2], update[None], dim=1)
    assert (cosines[0] / cosines[1]).item() == pytest.approx(2.5)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, factors=st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4))
def test_the_direction_does_not_depend_on_the_scales_of_the_losses(seed, factors):
    jacobian = random_jacobian(seed, 4)
    update = ConFIG().combine(jacobian)
    scaled = ConFIG().combine(torch.tensor(factors, dtype=torch.float64)[:, None] * jacobian)
    assert torch.cosine_similarity(update, scaled, dim=0).item() == pytest.approx(1, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, order=st.permutations(range(5)))
def test_the_order_of_the_tasks_does_not_matter(seed, order):
    jacobian = random_jacobian(seed, 5)
    weights = ConFIG().weights(jacobian @ jacobian.T)
    permuted = jacobian[order]
    torch.testing.assert_close(ConFIG().weights(permuted @ permuted.T), weights[order])


def test_one_task_alone_keeps_its_gradient():
    jacobian = random_jacobian(0, 1)
    torch.testing.assert_close(step(ConFIG(), jacobian), jacobian[0])


def test_equal_gradients_add_up_and_opposite_ones_leave_nothing():
    g = random_jacobian(1, 1)[0]
    torch.testing.assert_close(ConFIG().combine(torch.stack([g, g, 3 * g])), 5 * g)
    for factor in (1.0, 3.0):
        assert torch.equal(ConFIG().combine(torch.stack([g, -factor * g])), torch.zeros_like(g))


def test_a_gradient_of_zero_is_left_out():
    jacobian = random_jacobian(2, 3)
    jacobian[1] = 0
    update = step(ConFIG(), jacobian)
    torch.testing.assert_close(update, ConFIG().combine(jacobian[[0, 2]]))
    assert torch.equal(ConFIG().weights(torch.zeros(3, 3)), torch.zeros(3))


def test_tasks_can_be_absent_and_the_type_is_kept(network, inputs):
    losses = network.losses(inputs)
    ConFIG().backward({"c": losses["c"], "a": losses["a"]}, network.trunk.parameters())
    torch.testing.assert_close(network.trunk_gradient(), ConFIG().combine(network.jacobian(inputs)[[2, 0]]))
    assert ConFIG().weights(torch.eye(2)).dtype == torch.float32


def test_a_bad_preference_is_refused():
    with pytest.raises(UserError, match="con_fig: the preference of task 'a' is 0"):
        ConFIG({"a": 0, "b": 1})
    with pytest.raises(UserError, match="no preference for task 'c'"):
        ConFIG({"a": 1, "b": 1}).prepare(["a", "b", "c"])
