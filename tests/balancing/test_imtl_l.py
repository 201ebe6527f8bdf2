import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.imtl_l import IMTLL
from polytask.errors import UserError


def losses_of(**values):
    return {task: torch.tensor(float(value), requires_grad=True) for task, value in values.items()}


def log_scales(balancer):
    state = balancer.state_dict()
    if "log_scales.value" in state:
        return dict(zip(state["log_scales._extra_state"]["tasks"], state["log_scales.value"].tolist(), strict=True))
    return {key.partition(".")[2]: value.item() for key, value in state.items()}


@pytest.mark.parametrize("lr", [None, 0.1])
def test_every_task_starts_with_weight_1(lr):
    balancer = IMTLL(lr)
    balancer.prepare(["a", "b"])
    losses = losses_of(a=3, b=0.2)
    balancer.backward(losses)
    assert [loss.grad.item() for loss in losses.values()] == [1, 1]


def test_the_scales_follow_the_hand_worked_recurrence_of_gradient_descent():
    balancer = IMTLL()
    balancer.prepare(["a", "b"])
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.1)
    s = {"a": 0.0, "b": 0.0}
    for a, b in [(2.0, 0.5), (1.5, 0.25), (3.0, 4.0), (0.1, 0.2)]:
        losses = losses_of(a=a, b=b)
        balancer.backward(losses)
        assert losses["a"].grad.item() == pytest.approx(math.exp(s["a"]))
        optimizer.step()
        optimizer.zero_grad()
        for task, loss in (("a", a), ("b", b)):
            s[task] -= 0.1 * (math.exp(s[task]) * loss - 1)
        assert log_scales(balancer) == pytest.approx(s)


def test_the_combined_loss_is_that_of_the_paper():
    balancer = IMTLL()
    balancer.prepare(["0", "1"])
    with torch.no_grad():
        for parameter, value in zip(balancer.parameters(), (0.3, -0.7), strict=True):
            parameter.fill_(value)
    expected = math.exp(0.3) * 2 - 0.3 + math.exp(-0.7) * 5 + 0.7
    assert balancer.combine(torch.tensor([2.0, 5.0])).item() == pytest.approx(expected)


def test_its_own_adam_is_that_of_pytorch_on_the_users_side():
    own, users = IMTLL(lr=0.05), IMTLL()
    users.prepare(["a", "b", "c"])
    optimizer = torch.optim.Adam(users.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        values = dict(zip("abc", torch.rand(3, generator=generator).mul(4).tolist(), strict=True))
        present = {task: value for i, (task, value) in enumerate(values.items()) if (step + i) % 3 or step < 3}
        own.backward(losses_of(**present))
        users.backward(losses_of(**present))
        torch.testing.assert_close(own.last.weight_values, users.last.weight_values, rtol=1e-4, atol=1e-6)
        optimizer.step()
        optimizer.zero_grad()
    assert log_scales(own) == pytest.approx(log_scales(users), rel=1e-4)


@pytest.mark.parametrize("lr", [None, 0.1])
def test_a_task_that_is_absent_keeps_its_state(lr):
    balancer = IMTLL(lr)
    balancer.prepare(["a", "b"])
    optimizer = torch.optim.AdamW(balancer.parameters(), lr=0.1) if lr is None else None
    for step in range(6):
        balancer.backward(losses_of(a=2, b=5) if step < 3 else losses_of(a=2))
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        if step == 2:
            before = log_scales(balancer)
    assert log_scales(balancer)["b"] == before["b"]
    assert log_scales(balancer)["a"] != before["a"]


def test_constant_losses_end_with_the_inverse_losses_as_weights():
    balancer = IMTLL(lr=0.05)
    for _ in range(600):
        balancer.backward(losses_of(a=10, b=0.1))
    assert balancer.last.weights["a"].item() == pytest.approx(0.1, rel=1e-3)
    assert balancer.last.weights["b"].item() == pytest.approx(10, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), seed=st.integers(0, 100))
def test_the_order_of_the_tasks_does_not_matter(order, seed):
    straight, shuffled = IMTLL(lr=0.1), IMTLL(lr=0.1)
    for row in torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)).tolist():
        losses = dict(zip("abcd", row, strict=True))
        straight.backward(losses_of(**losses))
        shuffled.backward(losses_of(**{task: losses[task] for task in order}))
    assert log_scales(shuffled) == pytest.approx(log_scales(straight))


@pytest.mark.parametrize("lr", [None, 0.1])
def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(lr, tmp_path):
    def train(balancer, optimizer, steps):
        for step in steps:
            balancer.backward(losses_of(**({"a": 2 + step % 3, "type": 0.3, "b": 5} if step % 2 else {"b": 4})))
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()

    def make():
        balancer = IMTLL(lr)
        if lr is not None:
            return balancer, None
        balancer.prepare(["a", "type", "b"])
        return balancer, torch.optim.Adam(balancer.parameters(), lr=0.1)

    whole, first, second = make(), make(), make()
    train(*whole, range(10))
    train(*first, range(5))
    torch.save([None if part is None else part.state_dict() for part in first], tmp_path / "state.pt")
    for part, state in zip(second, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        if part is not None:
            part.load_state_dict(state)
    train(*second, range(5, 10))
    assert log_scales(second[0]) == log_scales(whole[0])


def test_scales_that_are_made_in_the_first_step_are_announced(caplog):
    balancer = IMTLL()
    balancer.backward(losses_of(a=1, b=2))
    assert "imtl_l: the scales of a, b are made only now" in caplog.text
    caplog.clear()
    balancer.backward(losses_of(a=1, b=2))
    assert not caplog.text


def test_a_scaler_does_not_change_how_the_scales_move():
    plain, scaled = IMTLL(lr=0.1), IMTLL(lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for _ in range(3):
        plain.backward(losses_of(a=2, b=3))
        scaled.backward(losses_of(a=2, b=3), scaler=scaler)
    assert log_scales(scaled) == log_scales(plain)
    torch.testing.assert_close(scaled.last.weight_values, plain.last.weight_values)


def test_losses_that_overflow_or_are_zero_do_not_spoil_the_scales():
    balancer = IMTLL(lr=0.1)
    balancer.backward(losses_of(a=math.inf, b=math.nan, c=0))
    balancer.backward(losses_of(a=1, b=1, c=0))
    assert all(math.isfinite(s) for s in log_scales(balancer).values())
    assert balancer.last.weights["c"] > 1


def test_a_learning_rate_that_is_not_positive_is_refused():
    with pytest.raises(UserError, match=r"imtl_l: lr is 0\.0"):
        IMTLL(lr=0.0)
