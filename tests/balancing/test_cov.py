import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.cov import CoefficientOfVariation
from polytask.errors import UserError


def step(balancer, **values):
    balancer.backward({task: torch.tensor(float(value), requires_grad=True) for task, value in values.items()})
    return {task: weight.item() for task, weight in balancer.last.weights.items()}


def reference(rows):
    """The weights of each step, from all losses before it, without recurrences."""
    history = torch.tensor(rows, dtype=torch.float64)
    for t in range(len(rows)):
        if t < 2:
            yield torch.full_like(history[0], 1 / history.shape[1])
            continue
        past = history[:t]
        means = torch.stack([past[0], *(past[:i].mean(0) for i in range(1, t))])
        ratios = past / means
        variation = (ratios.var(0, correction=0) + 1e-8).sqrt() / ratios.mean(0)
        yield variation / variation.sum()


def test_the_weights_follow_the_hand_worked_sequence():
    balancer = CoefficientOfVariation()
    assert step(balancer, a=2, b=4) == {"a": 0.5, "b": 0.5}
    assert step(balancer, a=1, b=3) == {"a": 0.5, "b": 0.5}
    # Ratios: a 1, 1/2; b 1, 3/4. Deviations over means: (1/4) / (3/4) and (1/8) / (7/8).
    variation = {"a": 1 / 3, "b": 1 / 7}
    assert step(balancer, a=1.5, b=7) == pytest.approx({t: v / (10 / 21) for t, v in variation.items()}, rel=1e-6)
    # Means before: 1.5 and 3.5. Ratios: a 1, 1/2, 1; b 1, 3/4, 2.
    a = math.sqrt((1 + 0.25 + 1) / 3 - (2.5 / 3) ** 2) / (2.5 / 3)
    b = math.sqrt((1 + 0.5625 + 4) / 3 - (3.75 / 3) ** 2) / (3.75 / 3)
    assert step(balancer, a=1, b=1) == pytest.approx({"a": a / (a + b), "b": b / (a + b)}, rel=1e-6)


def test_the_running_statistics_are_those_of_the_whole_history():
    rows = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)).add(0.2).mul(torch.tensor([1.0, 50.0, 0.01]))
    balancer = CoefficientOfVariation()
    for row, expected in zip(rows.tolist(), reference(rows.tolist()), strict=True):
        weights = step(balancer, **dict(zip("abc", row, strict=True)))
        assert list(weights.values()) == pytest.approx(expected.tolist(), rel=1e-4)


def test_the_trunk_gets_the_weighted_gradients(network, inputs):
    balancer = CoefficientOfVariation()
    for factor in (1.0, 2.0, 1.0):
        network.zero_grad()
        losses = network.losses(inputs)
        balancer.backward({**losses, "b": losses["b"] * factor})
    weights = balancer.last.weight_values
    assert weights[1] > 0.9
    torch.testing.assert_close(network.trunk_gradient(), weights @ network.jacobian(inputs))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_neither_the_order_of_the_tasks_nor_the_scale_of_a_loss_matters(order, scale, seed):
    straight, shuffled = CoefficientOfVariation(), CoefficientOfVariation()
    for row in torch.rand(6, 4, generator=torch.Generator().manual_seed(seed)).add(0.1).tolist():
        losses = dict(zip("abcd", row, strict=True))
        weights = step(straight, **losses)
        changed = step(shuffled, **{task: losses[task] * (scale if task == "c" else 1) for task in order})
        assert changed == pytest.approx(weights, rel=1e-3)


def test_a_task_that_is_absent_keeps_its_statistics():
    rows, absent = [(1.0, 2.0), (2.0, 5.0), (3.0, 1.0)], [9.0, 7.0]
    expected, balancer = CoefficientOfVariation(), CoefficientOfVariation()
    for a, b in rows:
        step(expected, a=a, b=b)
        step(balancer, b=b, a=a)
    for a in absent:
        assert step(balancer, a=a) == {"a": 1}
    state, kept = expected.state_dict(), balancer.state_dict()
    assert kept["statistics.squares"][0] == state["statistics.squares"][1]
    assert kept["statistics.steps"].tolist() == [3, 5]


def test_a_new_task_makes_the_weights_equal_for_two_steps():
    balancer = CoefficientOfVariation()
    for a, b in [(1, 2), (3, 2.5), (2, 2)]:
        step(balancer, a=a, b=b)
    for number in range(3):
        weights = step(balancer, a=1 + number, new=2 + number)
        assert (set(weights.values()) == {0.5}) == (number < 2)
    assert step(balancer, a=1, b=1)["a"] > 0.5


def test_losses_that_are_zero_or_not_finite_are_survived():
    balancer = CoefficientOfVariation()
    for values in [(0, 1, math.inf), (0, 2, math.nan), (0, 1, 3), (0, 3, 2), (1, 3, math.inf), (0, 1, 1), (0, 1, 1)]:
        weights = step(balancer, **dict(zip("abc", values, strict=True)))
        assert all(math.isfinite(weight) for weight in weights.values())
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["b"] > 0.1
    assert weights["c"] > 0.1


def test_losses_that_are_not_finite_are_left_out():
    balancer, expected = CoefficientOfVariation(), CoefficientOfVariation()
    for value in (math.inf, 1, math.nan, 2, math.inf, 1.5):
        step(balancer, a=value, b=1)
        if math.isfinite(value):
            step(expected, a=value)
    state, wanted = balancer.state_dict(), expected.state_dict()
    for field in ("loss", "ratio", "squares", "steps"):
        assert state[f"statistics.{field}"][0] == wanted[f"statistics.{field}"][0]


def test_losses_that_stand_still_have_equal_weights_and_next_to_none_beside_one_that_moves():
    balancer = CoefficientOfVariation()
    for _ in range(3):
        weights = step(balancer, a=1, b=3)
    assert weights == pytest.approx({"a": 0.5, "b": 0.5})
    balancer = CoefficientOfVariation()
    for number in range(3):
        weights = step(balancer, a=1, b=2 - number)
    # Ratios of b: 1 and 1/2.
    assert weights["a"] == pytest.approx(1e-4 / (1e-4 + 1 / 3), rel=1e-3)


def test_one_task_alone_has_weight_1():
    balancer = CoefficientOfVariation()
    assert [step(balancer, a=value)["a"] for value in (3, 2, 1)] == [1, 1, 1]


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, steps):
        return [
            step(balancer, **({"a": 3 + n % 4, "type": 2, "b": 9 / (n + 1)} if n % 3 else {"b": 4, "a": 1}))
            for n in steps
        ]

    whole, first, second = (CoefficientOfVariation() for _ in range(3))
    first.prepare(["a", "type", "b"])
    expected = train(whole, range(12))
    train(first, range(6))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(second, range(6, 12)) == expected[6:]


def test_a_scaler_does_not_change_the_weights():
    plain, scaled = CoefficientOfVariation(), CoefficientOfVariation()
    for value in (3.0, 2.0, 1.0):
        expected = step(plain, a=value, b=value**2)
        losses = {task: torch.tensor(v, requires_grad=True) for task, v in (("a", value), ("b", value**2))}
        scaled.backward(losses, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert {task: weight.item() for task, weight in scaled.last.weights.items()} == pytest.approx(expected)


def test_a_bad_option_is_refused():
    with pytest.raises(UserError, match="normalize is 'sum'"):
        CoefficientOfVariation(normalize="sum")
