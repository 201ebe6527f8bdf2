import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.excess_mtl import ExcessMTL
from polytask.errors import UserError


def random_jacobian(seed, tasks, size=6):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, names=None):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    names = names or [str(i) for i in range(len(jacobian))]
    balancer.backward(dict(zip(names, jacobian @ theta, strict=True)), [theta])
    return theta.grad


@pytest.mark.parametrize("warmup", [1, 3])
@pytest.mark.parametrize("normalize", ["sum_to_one", "sum_to_k"])
def test_the_updates_follow_the_papers_recurrence(warmup, normalize):
    balancer = ExcessMTL(0.1, warmup, normalize)
    weights, squares, starts = torch.ones(3).double() / 3, torch.zeros(3, 6).double(), []
    for i in range(10):
        jacobian = torch.tensor([1.0, 1e-2, 30.0])[:, None] * (random_jacobian(i, 3) + 1)
        squares += jacobian**2
        excess = torch.stack([g @ torch.diag((h + 1e-7).rsqrt()) @ g for g, h in zip(jacobian, squares, strict=True)])
        if i < warmup:
            starts.append(excess)
        else:
            weights = weights * torch.exp(0.1 * excess / (sum(starts) / warmup))
            weights = weights / weights.sum()
        expected = (3 if normalize == "sum_to_k" else 1) * weights @ jacobian
        torch.testing.assert_close(step(balancer, jacobian), expected, rtol=1e-5, atol=1e-5)


def test_a_hand_worked_second_step():
    balancer = ExcessMTL(1.0, eps=1e-30)
    step(balancer, torch.tensor([[3.0, 0], [0, 5]], dtype=torch.float64))
    # Excess 3 and 5 at the start; then 16 / sqrt(9 + 16) = 16/5 and 144 / sqrt(25 + 144) = 144/13.
    update = step(balancer, torch.tensor([[4.0, 0], [0, 12]], dtype=torch.float64))
    a, b = math.exp(16 / 5 / 3), math.exp(144 / 13 / 5)
    assert update.tolist() == pytest.approx([4 * a / (a + b), 12 * b / (a + b)], rel=1e-5)


def test_it_agrees_with_torchjd():
    aggregation = pytest.importorskip("torchjd.aggregation")
    # There the first step is its own baseline, and moves the weights already, unless it is a warm-up step.
    ours, theirs = ExcessMTL(0.1, 2), aggregation.ExcessMTL(0.1, 2)
    for i in range(8):
        jacobian = random_jacobian(i, 4)
        torch.testing.assert_close(step(ours, jacobian), theirs(jacobian), rtol=1e-4, atol=1e-5)


def test_a_task_that_is_better_trained_loses_weight():
    balancer = ExcessMTL(0.2)
    for i in range(30):
        update = step(balancer, torch.tensor([[1.0, 0], [0, 0.8**i]], dtype=torch.float64), ["stuck", "learned"])
    assert update[0] > 0.8


def test_tasks_that_are_absent_keep_their_place_among_the_others():
    often, always = ExcessMTL(0.1), ExcessMTL(0.1)
    jacobian = torch.eye(3, dtype=torch.float64)
    for balancer in (often, always):
        step(balancer, jacobian, ["a", "b", "c"])
    for i in range(1, 30):
        step(always, jacobian, ["a", "b", "c"])
        if i % 2:
            step(often, jacobian[:2], ["b", "a"])
        else:
            step(often, jacobian, ["a", "b", "c"])
    torch.testing.assert_close(step(always, jacobian, ["a", "b", "c"]), torch.full((3,), 1 / 3).double())
    a, b, c = step(often, jacobian, ["a", "b", "c"]).tolist()
    assert a == pytest.approx(b)
    assert c == pytest.approx(a, rel=0.2)


def test_a_task_that_comes_late_warms_up_by_itself():
    balancer = ExcessMTL(0.1, warmup_steps=2)
    for i in range(4):
        step(balancer, random_jacobian(i, 2), ["a", "b"])
    for i in range(4):
        assert step(balancer, random_jacobian(i, 3), ["a", "late", "b"]).isfinite().all()
    warm = balancer.progress.read("warm", ["a", "b", "late"], torch.device("cpu"))
    assert warm.tolist() == [2, 2, 2]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(4)))
def test_the_order_of_the_tasks_does_not_matter(seed, order):
    straight, shuffled = ExcessMTL(0.3), ExcessMTL(0.3)
    for i in range(3):
        jacobian = random_jacobian(seed + i, 4)
        expected = step(straight, jacobian, list("abcd"))
        found = step(shuffled, jacobian[order], ["abcd"[k] for k in order])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), factors=st.lists(st.sampled_from([1e-6, 1e-2, 1.0, 1e6]), min_size=3, max_size=3))
def test_the_weights_do_not_depend_on_the_scales_of_the_losses(seed, factors):
    factors = torch.tensor(factors, dtype=torch.float64)[:, None]
    plain, scaled = ExcessMTL(0.5, eps=1e-30), ExcessMTL(0.5, eps=1e-30)
    for i in range(3):
        jacobian = random_jacobian(seed + i, 3)
        step(plain, jacobian)
        step(scaled, factors * jacobian)
    names, cpu = ["0", "1", "2"], torch.device("cpu")
    torch.testing.assert_close(
        scaled.progress.read("log_weight", names, cpu),
        plain.progress.read("log_weight", names, cpu),
        rtol=1e-4,
        atol=1e-5,
    )


def test_one_task_alone_keeps_its_gradient():
    balancer = ExcessMTL(0.5)
    for i in range(3):
        jacobian = random_jacobian(i, 1)
        torch.testing.assert_close(step(balancer, jacobian), jacobian[0])


def test_a_gradient_of_zero_does_not_start_a_task():
    balancer = ExcessMTL(0.5)
    for i in range(4):
        jacobian = random_jacobian(i, 3)
        if i < 2:
            jacobian[1] = 0
        assert step(balancer, jacobian).isfinite().all()
    assert balancer.progress.read("warm", ["0", "1", "2"], torch.device("cpu")).tolist() == [1, 1, 1]
    assert step(balancer, torch.zeros(3, 6, dtype=torch.float64)).tolist() == [0] * 6


def test_a_step_that_is_not_finite_leaves_the_state():
    balancer = ExcessMTL(0.5)
    for i in range(3):
        step(balancer, random_jacobian(i, 2))
    before = {key: str(value) for key, value in balancer.state_dict().items()}
    jacobian = random_jacobian(4, 2)
    jacobian[0, 0] = math.inf
    balancer.combine(jacobian)
    assert {key: str(value) for key, value in balancer.state_dict().items()} == before


def test_shared_parameters_that_change_are_refused():
    balancer = ExcessMTL()
    step(balancer, random_jacobian(0, 2, size=4))
    with pytest.raises(UserError, match="excess_mtl: the shared parameters were 4"):
        step(balancer, random_jacobian(0, 2, size=5))


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, steps):
        found = []
        for i in steps:
            names = ["a", "b.c", "type", "d"] if i % 3 else ["d", "a"]
            found.append(step(balancer, random_jacobian(i, len(names)), names))
        return found

    whole = train(ExcessMTL(0.3, 2), range(8))
    first, second = ExcessMTL(0.3, 2), ExcessMTL(0.3, 2)
    train(first, range(4))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for ours, expected in zip(train(second, range(4, 8)), whole[4:], strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"step_size": 0.0}, "step_size is 0.0"),
        ({"warmup_steps": 0}, "warmup_steps is 0"),
        ({"normalize": "none"}, "normalize is 'none'"),
        ({"eps": 0.0}, "eps is 0.0"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        ExcessMTL(**parameters)
