import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.moco import MoCo
from polytask.errors import UserError


def jacobians(steps, tasks, columns=6, seed=0):
    return torch.randn(steps, tasks, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, tasks):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    balancer.backward({task: row @ theta for task, row in zip(tasks, jacobian, strict=True)}, [theta])
    return theta.grad


def on_simplex(point):
    """By bisection for the shift that makes the positive parts sum to 1."""
    low, high = point.min() - 1, point.max()
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(point - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(point - high, 0)


def definition(sequence, beta, gamma, rho, beta_decay, gamma_decay):
    averages, weights = np.zeros(sequence[0].shape), np.full(len(sequence[0]), 1 / len(sequence[0]))
    updates = []
    for t, jacobian in enumerate(sequence, start=1):
        averages = averages - beta / t**beta_decay * (averages - jacobian.numpy())
        gramian = averages @ averages.T + rho * np.eye(len(weights))
        weights = on_simplex(weights - gamma / t**gamma_decay * gramian @ weights)
        updates.append(torch.from_numpy(weights @ averages))
    return updates


@pytest.mark.parametrize(
    "rates", [(0.5, 0.1, 0.0, 0.5, 0.5), (1.0, 0.3, 0.7, 0.0, 0.0), (0.2, 5.0, 0.1, 1.0, 0.0), (0.5, 0, 0, 0, 0)]
)
def test_the_updates_are_those_of_the_definition(rates):
    sequence = jacobians(10, 4)
    balancer = MoCo(*rates)
    for jacobian, expected in zip(sequence, definition(sequence, *rates), strict=True):
        torch.testing.assert_close(step(balancer, jacobian, "abcd"), expected, rtol=1e-5, atol=1e-6)


def test_a_step_by_hand():
    # Averages (1, 0) and (0, 2); slope (0.5, 2); weights (0.5 - 0.05, 0.5 - 0.2) + 0.125.
    update = MoCo().combine(torch.tensor([[2.0, 0], [0, 4]]))
    assert update.tolist() == pytest.approx([0.575, 0.425 * 2])


def test_in_the_long_run_the_update_is_the_golden_one_of_least_norm(golden):
    # With gradients of very different lengths these small steps take too long.
    easy = [c for c in golden if len(c["jacobian"]) < 6 and not c["name"].startswith("scales")]
    cases = [(c, e) for c in easy for e in c["expected"] if e["method"] == "mgda"]
    assert len(cases) == 7
    for case, expected in cases:
        jacobian = torch.tensor(case["jacobian"], dtype=torch.float64)
        size = torch.linalg.eigvalsh(jacobian @ jacobian.T).max().item()
        balancer = MoCo(beta=1.0, gamma=1 / size, beta_decay=0.0, gamma_decay=0.0)
        for _ in range(200):
            update = balancer.combine(jacobian)
        wanted = torch.tensor(expected["update"], dtype=torch.float64)
        torch.testing.assert_close(update, wanted, rtol=1e-2, atol=1e-3 * jacobian.norm().item())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-4, 1.0, 1e4]), tasks=st.integers(1, 6))
def test_the_weights_stay_on_the_simplex(seed, scale, tasks):
    balancer = MoCo()
    for jacobian in jacobians(3, tasks, seed=seed).float() * scale:
        balancer.combine(jacobian)
    share = balancer.progress.read("share", tuple(map(str, range(tasks))), torch.device("cpu")) / tasks
    assert share.min() >= 0
    assert share.sum().item() == pytest.approx(1, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(4)), seed=st.integers(0, 100))
def test_the_order_of_the_tasks_does_not_matter(order, seed):
    straight, shuffled = MoCo(), MoCo()
    for jacobian in jacobians(4, 4, seed=seed):
        expected = step(straight, jacobian, "abcd")
        found = step(shuffled, jacobian[order], ["abcd"[i] for i in order])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_tasks_in_a_step_divide_their_share_and_the_others_keep_theirs():
    balancer = MoCo(beta=1.0, beta_decay=0.0, gamma=0.1, gamma_decay=0.0)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(step(balancer, eye, "abc"), torch.full((3,), 1 / 3).double())
    # Of a and b alone: weights (1/2, 1/2) - 0.1 (1/2, 4/2) + 0.125, of the two thirds that they have.
    found = step(balancer, torch.tensor([[1.0, 0, 0], [0, 2, 0]]).double(), "ab")
    assert found.tolist() == pytest.approx([0.575, 2 * 0.425, 0])
    balancer.gamma = 0.0
    assert step(balancer, eye, "abc").tolist() == pytest.approx([0.575 * 2 / 3, 0.425 * 2 / 3, 1 / 3])


def test_tasks_that_lost_all_weight_go_on_equally_when_alone():
    balancer = MoCo(beta=1.0, gamma=10.0)
    jacobian = torch.diag(torch.tensor([1.0, 30, 30])).double()
    assert step(balancer, jacobian, "abc")[1:].tolist() == [0, 0]
    assert (step(balancer, jacobian[1:], "bc")[1:] > 0).all()


def test_one_task_and_a_gradient_of_0_among_others():
    jacobian = jacobians(1, 3)[0]
    torch.testing.assert_close(MoCo(beta=1.0).combine(jacobian[:1]), jacobian[0])
    jacobian[1] = 0
    balancer = MoCo()
    for _ in range(3):
        assert balancer.combine(jacobian).isfinite().all()


def test_a_step_that_overflows_in_float16_is_left_to_the_scaler_and_not_taken_in():
    sequence = jacobians(2, 2).float()
    balancer, untouched = MoCo(), MoCo()
    for each in (balancer, untouched):
        each.combine(sequence[0])
    assert not balancer.combine(sequence[1] * torch.tensor([[1.0], [torch.inf]])).isfinite().any()
    assert torch.equal(balancer.combine(sequence[1]), untouched.combine(sequence[1]))


def test_other_shared_parameters_than_before_are_refused():
    balancer = MoCo()
    balancer.combine(torch.ones(2, 4))
    with pytest.raises(UserError, match=r"moco: the shared parameters were 4 numbers so far, and are 3.*`shared=`"):
        balancer.combine(torch.ones(2, 3))


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    sequence = jacobians(6, 2)
    whole = MoCo()
    for jacobian in sequence[:3]:
        step(whole, jacobian, "ab")
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    fresh = MoCo()
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for jacobian in sequence[3:]:
        assert torch.equal(step(fresh, jacobian, "ba"), step(whole, jacobian, "ba"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("beta", 0.0), ("beta", 1.1), ("gamma", -1.0), ("rho", -1.0), ("beta_decay", -1.0), ("gamma_decay", math.inf)],
)
def test_bad_parameters_are_refused(name, value):
    with pytest.raises(UserError, match=f"moco: {name} is {value}"):
        MoCo(**{name: value})
