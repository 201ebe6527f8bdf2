import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing import Score
from polytask.balancing.pivrg import PIVRG
from polytask.errors import UserError

seeds = st.integers(0, 10_000)
REFERENCES = {"a": 0.8, "b": -2.0, "c": 10.0}


def random_jacobian(seed, tasks, size=20):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, names):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    balancer.backward(dict(zip(names, jacobian @ theta, strict=True)), [theta])
    return theta.grad


def scores(**values):
    """Of tasks of which the first is better the higher."""
    return {task: Score(value, task == "a", 0.0) for task, value in values.items()}


def fair(gramian):
    return PIVRG(dict.fromkeys(map(str, range(len(gramian))), 1.0)).weights(gramian)


def counts(balancer, *names):
    """What the tasks count for, from the weights for gradients at right angles: `w = p^(1/3)`."""
    step(balancer, torch.eye(len(names), dtype=torch.float64), names)
    return (balancer.last.weight_values**3).tolist()


def test_without_scores_the_golden_numbers_of_fairgrad_come_out(golden):
    cases = [
        (case, e)
        for case in golden
        for e in case["expected"]
        if e["method"] == "fairgrad" and e["parameters"] == {"alpha": 2.0}
    ]
    assert len(cases) == 11
    for case, expected in cases:
        jacobian = torch.tensor(case["jacobian"], dtype=torch.float64)
        names = [str(i) for i in range(len(jacobian))]
        balancer = PIVRG(dict.fromkeys(names, 1.0))
        weights = torch.tensor(expected["weights"], dtype=torch.float64)
        torch.testing.assert_close(balancer.weights(jacobian @ jacobian.T), weights, rtol=1e-8, atol=0)
        update = torch.tensor(expected["update"], dtype=torch.float64)
        torch.testing.assert_close(step(balancer, jacobian, names), update, rtol=1e-6, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    tasks=st.integers(1, 12),
    powers=st.lists(st.integers(-6, 6), min_size=12),
    gaps=st.lists(st.floats(-80, 80), min_size=12),
)
def test_the_weights_solve_the_papers_equation_at_any_scale(seed, tasks, powers, gaps):
    lengths = 10.0 ** torch.tensor(powers[:tasks], dtype=torch.float64)
    jacobian = lengths[:, None] * random_jacobian(seed, tasks, size=30)
    gramian = jacobian @ jacobian.T
    names = [str(i) for i in range(tasks)]
    balancer = PIVRG(dict.fromkeys(names, 100.0), bound=None)
    balancer.epoch_end({name: Score(100 + gap, False, 0.0) for name, gap in zip(names, gaps, strict=False)})
    weights = balancer.weights(gramian)
    p = tasks * (torch.tensor(gaps[:tasks], dtype=torch.float64) / 10).softmax(0)
    torch.testing.assert_close(gramian @ weights, (p / weights).sqrt(), rtol=1e-4, atol=0)


def test_a_task_counts_by_how_far_it_is_below_its_reference():
    balancer = PIVRG(REFERENCES, temperature=10.0, bound=None)
    balancer.prepare(["a", "b", "c"])
    assert counts(balancer, "a", "b", "c") == pytest.approx([1, 1, 1])
    # 10 percent below, 5 percent better, 0: a loss below its reference is better, a negative one by its size.
    balancer.epoch_end(scores(a=0.72, b=-2.1, c=10.0))
    parts = [math.exp(1), math.exp(-0.5), 1]
    assert counts(balancer, "a", "b", "c") == pytest.approx([3 * part / sum(parts) for part in parts])
    assert counts(balancer, "c", "a") == pytest.approx([2 / (1 + math.e), 2 * math.e / (1 + math.e)])


def test_the_bound_raises_the_temperature():
    balancer = PIVRG(REFERENCES)
    balancer.epoch_end(scores(a=0.4, b=-2.0, c=10.0))
    a, b, c = counts(balancer, "a", "b", "c")
    assert a / b == pytest.approx(2)
    assert b == pytest.approx(c)
    balancer.epoch_end(scores(a=0.76, b=-2.0, c=10.0))
    a, b, _ = counts(balancer, "a", "b", "c")
    assert a / b == pytest.approx(math.exp(0.5))


def test_without_a_bound_a_task_can_count_for_nearly_nothing():
    balancer = PIVRG(REFERENCES, bound=None)
    balancer.epoch_end(scores(a=0.8, b=-2.0, c=1e9))
    a, b, c = counts(balancer, "a", "b", "c")
    assert c == pytest.approx(3)
    assert 0 < a == b < 1e-9


def test_a_task_that_lags_behind_gains_more():
    jacobian = random_jacobian(0, 3)
    balancer = PIVRG(REFERENCES)
    before = jacobian @ step(balancer, jacobian, ["a", "b", "c"])
    balancer.epoch_end(scores(a=0.8, b=-2.0, c=30.0))
    after = jacobian @ step(balancer, jacobian, ["a", "b", "c"])
    assert after[2] > before[2] > 0


def test_epochs_without_scores_change_nothing_and_a_missing_score_keeps_the_last():
    balancer = PIVRG(REFERENCES, bound=None)
    balancer.epoch_end(scores(a=0.72, b=-2.0, c=10.0))
    before = counts(balancer, "a", "b", "c")
    balancer.epoch_end()
    balancer.epoch_end(None)
    balancer.epoch_end({})
    balancer.epoch_end(scores(a=math.nan, b=-2.0))
    balancer.epoch_end({"other": Score(1.0, True, 0.0)})
    assert counts(balancer, "a", "b", "c") == before


@settings(max_examples=20, deadline=None)
@given(seed=seeds, order=st.permutations(range(3)))
def test_the_order_of_the_tasks_does_not_matter(seed, order):
    jacobian = random_jacobian(seed, 3)
    balancer = PIVRG(REFERENCES)
    balancer.epoch_end(scores(a=0.7, b=-1.5, c=12.0))
    update = step(balancer, jacobian, ["a", "b", "c"])
    torch.testing.assert_close(step(balancer, jacobian[order], ["abc"[i] for i in order]), update)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, factor=st.sampled_from([1e-12, 1e12]))
def test_the_weights_scale_with_a_power_of_the_gramian(seed, factor):
    gramian = random_jacobian(seed, 4) @ random_jacobian(seed, 4).T
    torch.testing.assert_close(fair(factor * gramian) * factor ** (2 / 3), fair(gramian), rtol=1e-8, atol=0)


def test_one_task_alone_has_the_weight_in_closed_form():
    balancer = PIVRG({"a": 1.0})
    jacobian = random_jacobian(0, 1)
    step(balancer, jacobian, ["a"])
    assert balancer.last.weights["a"].item() == pytest.approx((jacobian @ jacobian.T).item() ** (-2 / 3))


def test_equal_gradients_share_and_one_of_zero_is_left_out():
    jacobian = random_jacobian(1, 2)[[0, 1, 0, 1]]
    jacobian[3] = 0
    a, b, c, d = fair(jacobian @ jacobian.T).tolist()
    assert a == pytest.approx(c)
    assert b > 0
    assert d == 0
    torch.testing.assert_close(
        fair(jacobian[:3] @ jacobian[:3].T), torch.tensor([a, b, c], dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert torch.equal(fair(torch.zeros(3, 3)), torch.zeros(3))


@pytest.mark.parametrize("factor", [1.0, 3.0, 1e6])
def test_gradients_that_cancel_give_next_to_no_step(factor):
    g = random_jacobian(2, 1)[0]
    for jacobian in (torch.stack([g, -factor * g]), torch.stack([g, 2 * g, -factor * g])):
        weights = fair(jacobian @ jacobian.T)
        assert weights.isfinite().all()
        assert (weights > 0).all()
        assert (weights @ jacobian).norm() < 1e-3 * (weights[:, None] * jacobian).norm(dim=1).max()


def test_dependent_gradients_give_finite_weights():
    for seed in range(20):
        jacobian = random_jacobian(seed, 8, size=3)
        weights = fair((jacobian @ jacobian.T).float())
        assert weights.dtype == torch.float32
        assert weights.isfinite().all()
        assert (weights > 0).all()


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    first, second = PIVRG(REFERENCES), PIVRG(REFERENCES)
    first.epoch_end(scores(a=0.7, c=12.0))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    jacobian = random_jacobian(0, 3)
    for balancer in (first, second):
        balancer.epoch_end(scores(b=-1.0))
    updates = [step(balancer, jacobian, ["c", "a", "b"]) for balancer in (first, second)]
    assert torch.equal(*updates)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"references": {}}, "there are no references"),
        ({"references": {"a": 0.0}}, "reference of task 'a' is 0"),
        ({"references": {"a": math.nan}}, "reference of task 'a' is nan"),
        ({"references": {"a": 1.0}, "temperature": 0.0}, "temperature is 0.0"),
        ({"references": {"a": 1.0}, "bound": 1.0}, "bound is 1.0"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        PIVRG(**parameters)


def test_each_task_needs_a_reference():
    with pytest.raises(UserError, match="pivrg: there is no reference for task 'd'"):
        PIVRG(REFERENCES).prepare(["a", "b", "c", "d"])
    with pytest.raises(UserError, match=r"pivrg: there is a reference for 'b', which is no task.*'bb'"):
        PIVRG(REFERENCES).prepare(["a", "bb", "c"])
