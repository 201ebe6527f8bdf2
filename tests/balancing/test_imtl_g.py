import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.imtl_g import IMTLG

seeds = st.integers(0, 10_000)


def random_jacobian(seed, tasks, size=20):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, names=None):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    names = names or [str(i) for i in range(len(jacobian))]
    balancer.backward(dict(zip(names, jacobian @ theta, strict=True)), [theta])
    return theta.grad


def projections(jacobian, update):
    return torch.nn.functional.normalize(jacobian, dim=1) @ update


def test_the_golden_numbers_come_out(golden):
    cases = [(case, e) for case in golden for e in case["expected"] if e["method"] == "imtl_g"]
    assert len(cases) == 10
    for case, expected in cases:
        jacobian = torch.tensor(case["jacobian"], dtype=torch.float64)
        weights = torch.tensor(expected["weights"], dtype=torch.float64)
        torch.testing.assert_close(IMTLG().weights(jacobian @ jacobian.T), weights, rtol=1e-8, atol=1e-12)
        update = torch.tensor(expected["update"], dtype=torch.float64)
        torch.testing.assert_close(step(IMTLG(), jacobian), update, rtol=1e-6, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, tasks=st.integers(1, 8))
def test_it_agrees_with_torchjd(seed, tasks):
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = random_jacobian(seed, tasks)
    torch.testing.assert_close(IMTLG().combine(jacobian), aggregation.IMTLG()(jacobian))


@settings(max_examples=50, deadline=None)
@given(seed=seeds, tasks=st.integers(1, 8), powers=st.lists(st.integers(-6, 6), min_size=8))
def test_the_projections_are_equal_and_the_weights_sum_to_one_at_any_scale(seed, tasks, powers):
    lengths = 10.0 ** torch.tensor(powers[:tasks], dtype=torch.float64)
    jacobian = lengths[:, None] * random_jacobian(seed, tasks)
    weights = IMTLG().weights(jacobian @ jacobian.T)
    assert weights.sum().item() == pytest.approx(1, rel=1e-6)
    found = projections(jacobian, weights @ jacobian)
    torch.testing.assert_close(found, found.mean().expand(tasks), rtol=1e-6, atol=0)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, factors=st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4))
def test_the_direction_does_not_depend_on_the_scales_of_the_losses(seed, factors):
    jacobian = random_jacobian(seed, 4)
    update = IMTLG().combine(jacobian)
    scaled = IMTLG().combine(torch.tensor(factors, dtype=torch.float64)[:, None] * jacobian)
    assert abs(torch.cosine_similarity(update, scaled, dim=0).item()) == pytest.approx(1, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, order=st.permutations(range(5)))
def test_the_order_of_the_tasks_does_not_matter(seed, order):
    jacobian = random_jacobian(seed, 5)
    weights = IMTLG().weights(jacobian @ jacobian.T)
    permuted = jacobian[order]
    torch.testing.assert_close(IMTLG().weights(permuted @ permuted.T), weights[order])
    torch.testing.assert_close(step(IMTLG(), permuted), step(IMTLG(), jacobian))


def test_one_task_alone_keeps_its_gradient():
    jacobian = random_jacobian(0, 1)
    torch.testing.assert_close(step(IMTLG(), jacobian), jacobian[0])


def test_equal_tasks_share_their_weight():
    jacobian = random_jacobian(1, 2)[[0, 1, 0]]
    a, b, c = IMTLG().weights(jacobian @ jacobian.T).tolist()
    whole = IMTLG().weights(jacobian[:2] @ jacobian[:2].T)
    assert a == pytest.approx(c)
    assert [a + c, b] == pytest.approx(whole.tolist())


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_opposite_gradients_have_equal_weights(factor):
    g = random_jacobian(2, 1)[0]
    jacobian = torch.stack([g, -factor * g])
    assert IMTLG().weights(jacobian @ jacobian.T).tolist() == [0.5, 0.5]


def test_a_gradient_of_zero_is_left_out():
    jacobian = random_jacobian(3, 3)
    jacobian[1] = 0
    update = step(IMTLG(), jacobian)
    torch.testing.assert_close(update, IMTLG().combine(jacobian[[0, 2]]))
    assert IMTLG().weights(torch.zeros(4, 4)).tolist() == [0.25] * 4


def test_more_tasks_than_dimensions_give_finite_weights():
    for seed in range(20):
        jacobian = random_jacobian(seed, 6, size=2)
        weights = IMTLG().weights(jacobian @ jacobian.T)
        assert weights.isfinite().all()
        assert weights.sum().item() == pytest.approx(1)


def test_tasks_can_be_absent_and_the_type_is_kept(network, inputs):
    losses = network.losses(inputs)
    balancer = IMTLG()
    balancer.backward({"c": losses["c"], "a": losses["a"]}, network.trunk.parameters())
    jacobian = network.jacobian(inputs)[[2, 0]]
    torch.testing.assert_close(network.trunk_gradient(), IMTLG().combine(jacobian))
    assert IMTLG().weights(torch.eye(2)).dtype == torch.float32
