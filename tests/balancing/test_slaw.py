import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.slaw import SLAW
from polytask.errors import UserError


def step(balancer, **values):
    balancer.backward({task: torch.tensor(float(value), requires_grad=True) for task, value in values.items()})
    return {task: weight.item() for task, weight in balancer.last.weights.items()}


def inverse(*deviations):
    total = sum(1 / s for s in deviations)
    return [len(deviations) / s / total for s in deviations]


def reference(rows, beta):
    """The weights of each step by moving averages of the losses and of their squares, in double precision."""
    mean, square = torch.zeros(2, len(rows[0]), dtype=torch.float64)
    threshold = round(1 / (1 - beta))
    for t, row in enumerate(torch.tensor(rows, dtype=torch.float64), start=1):
        stays = (t - 1) / t if t <= threshold else beta
        mean = stays * mean + (1 - stays) * row
        square = stays * square + (1 - stays) * row**2
        yield inverse(*(square - mean**2).sqrt().clamp(min=1e-5).tolist()) if t > 1 else [1] * len(row)


def test_the_weights_follow_the_hand_worked_sequence():
    balancer = SLAW(beta=0.75)
    assert step(balancer, a=2, b=10) == {"a": 1, "b": 1}
    # Of two numbers, the deviation is half their distance: 1 and 4.
    assert list(step(balancer, a=4, b=2).values()) == pytest.approx(inverse(1, 4))
    # Means 3 and 4, mean squares 28/3 and 104/3.
    thirds = math.sqrt(28 / 3 - 9), math.sqrt(104 / 3 - 16)
    third = step(balancer, a=2.8284271247, b=0)
    a = math.sqrt((4 + 16 + 8) / 3 - ((6 + 8**0.5) / 3) ** 2)
    assert list(third.values()) == pytest.approx(inverse(a, thirds[1]))


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99])
def test_the_moving_averages_are_those_of_the_official_code(beta):
    rows = torch.rand(150, 3, generator=torch.Generator().manual_seed(0)).add(0.2).mul(torch.tensor([1.0, 50.0, 0.01]))
    balancer = SLAW(beta)
    for row, expected in zip(rows.tolist(), reference(rows.tolist(), beta), strict=True):
        assert list(step(balancer, **dict(zip("abc", row, strict=True))).values()) == pytest.approx(expected, rel=1e-3)


def test_a_deviation_far_below_the_mean_is_not_lost_to_rounding():
    balancer = SLAW()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        noise = torch.randn(2, generator=generator).tolist()
        weights = step(balancer, a=1000 + noise[0], b=noise[1])
    assert weights["a"] == pytest.approx(weights["b"], rel=0.5)


def test_beta_1_is_the_deviation_of_all_losses():
    rows = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    balancer = SLAW(beta=1)
    for row in rows.tolist():
        weights = step(balancer, a=row[0], b=row[1])
    assert list(weights.values()) == pytest.approx(inverse(*rows.std(0, correction=0).tolist()), rel=1e-4)


def test_the_trunk_gets_the_weighted_gradients(network, inputs):
    balancer = SLAW()
    for factor in (1.0, 2.0, 1.0):
        network.zero_grad()
        losses = network.losses(inputs)
        balancer.backward({task: loss * (1 + i * (factor - 1)) for i, (task, loss) in enumerate(losses.items(), 1)})
    weights = balancer.last.weight_values
    assert len({round(weight, 3) for weight in weights.tolist()}) == 3
    torch.testing.assert_close(network.trunk_gradient(), weights @ network.jacobian(inputs))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), scale=st.floats(0.1, 1e3), seed=st.integers(0, 100))
def test_the_order_does_not_matter_and_a_scale_is_undone(order, scale, seed):
    straight, shuffled, scaled = SLAW(0.8), SLAW(0.8), SLAW(0.8)
    for number, row in enumerate(torch.rand(5, 4, generator=torch.Generator().manual_seed(seed)).add(0.1).tolist()):
        losses = dict(zip("abcd", row, strict=True))
        weights = step(straight, **losses)
        assert step(shuffled, **{task: losses[task] for task in order}) == pytest.approx(weights, rel=1e-4)
        changed = step(scaled, **{**losses, "c": losses["c"] * scale})
        if number:
            assert changed["c"] * scale / changed["a"] == pytest.approx(weights["c"] / weights["a"], rel=1e-2)


def test_a_task_that_is_absent_keeps_its_averages():
    expected, balancer = SLAW(), SLAW()
    for a, b in [(1.0, 2.0), (2.0, 5.0)]:
        step(expected, a=a, b=b)
        step(balancer, b=b, a=a)
    for a in (9.0, 7.0):
        assert step(balancer, a=a) == {"a": 1}
    assert balancer.state_dict()["statistics.variance"][0] == expected.state_dict()["statistics.variance"][1]
    assert balancer.state_dict()["statistics.steps"].tolist() == [2, 4]


def test_a_new_task_makes_the_weights_1_for_one_step():
    balancer = SLAW()
    for a, b in [(1, 2), (3, 2.5), (2, 2)]:
        step(balancer, a=a, b=b)
    assert step(balancer, a=1, new=2) == {"a": 1, "new": 1}
    assert step(balancer, a=1, new=4)["new"] < 1


def test_losses_that_are_not_finite_are_left_out():
    balancer, expected = SLAW(), SLAW()
    for value in (math.nan, 1, 2, math.inf, math.nan, 1.5):
        step(balancer, a=value, b=1)
        if math.isfinite(value):
            step(expected, a=value)
    state, wanted = balancer.state_dict(), expected.state_dict()
    for field in ("mean", "variance", "steps"):
        assert state[f"statistics.{field}"][0] == wanted[f"statistics.{field}"][0]


def test_a_loss_of_zero_draws_the_weight_but_leaves_no_other_at_zero():
    balancer = SLAW()
    for number in range(5):
        weights = step(balancer, a=0, b=number % 2)
    assert weights["a"] == pytest.approx(2, rel=1e-3)
    assert weights["b"] > 0


def test_one_task_alone_has_weight_1():
    balancer = SLAW()
    assert [step(balancer, a=value)["a"] for value in (3, 2, 2)] == [1, 1, 1]


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, steps):
        return [
            step(balancer, **({"a": 3 + n % 4, "type": n % 2, "b": 9 / (n + 1)} if n % 3 else {"b": 4, "a": n}))
            for n in steps
        ]

    whole, first, second = (SLAW() for _ in range(3))
    first.prepare(["a", "type", "b"])
    expected = train(whole, range(12))
    train(first, range(6))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(second, range(6, 12)) == expected[6:]


def test_a_scaler_does_not_change_the_weights():
    plain, scaled = SLAW(), SLAW()
    for value in (3.0, 2.0, 1.0):
        expected = step(plain, a=value, b=value**2)
        losses = {task: torch.tensor(v, requires_grad=True) for task, v in (("a", value), ("b", value**2))}
        scaled.backward(losses, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert {task: weight.item() for task, weight in scaled.last.weights.items()} == pytest.approx(expected)


@pytest.mark.parametrize("beta", [0, -0.1, 1.1])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(UserError, match=f"slaw: beta is {beta}"):
        SLAW(beta)
