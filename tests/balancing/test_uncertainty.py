import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing import Uncertainty
from polytask.errors import UserError


def losses_of(**values):
    return {task: torch.tensor(float(value), requires_grad=True) for task, value in values.items()}


def log_variances(balancer):
    state = balancer.state_dict()
    if balancer.log_variances.__class__.__name__ == "TaskAdam":
        names = state["log_variances._extra_state"]["tasks"]
        return dict(zip(names, state["log_variances.value"].tolist(), strict=True))
    return {key.partition(".")[2]: value.item() for key, value in state.items()}


@pytest.mark.parametrize("lr", [None, 0.1])
def test_every_task_starts_with_weight_one_half(lr):
    balancer = Uncertainty(lr)
    balancer.prepare(["a", "b"])
    losses = losses_of(a=3, b=0.2)
    balancer.backward(losses)
    assert [loss.grad.item() for loss in losses.values()] == [0.5, 0.5]
    assert {task: w.item() for task, w in balancer.last.weights.items()} == {"a": 0.5, "b": 0.5}


def test_the_log_variances_follow_the_hand_worked_recurrence_of_gradient_descent():
    balancer = Uncertainty()
    balancer.prepare(["a", "b"])
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.5)
    s = {"a": 0.0, "b": 0.0}
    for a, b in [(2.0, 0.5), (1.5, 0.25), (3.0, 4.0), (0.1, 0.2)]:
        losses = losses_of(a=a, b=b)
        balancer.backward(losses)
        assert losses["a"].grad.item() == pytest.approx(math.exp(-s["a"]) / 2)
        optimizer.step()
        optimizer.zero_grad()
        for task, loss in (("a", a), ("b", b)):
            s[task] -= 0.5 * (1 - math.exp(-s[task]) * loss) / 2
        assert log_variances(balancer) == pytest.approx(s)


def test_the_combined_loss_is_that_of_the_paper():
    balancer = Uncertainty()
    balancer.prepare(["0", "1"])
    with torch.no_grad():
        for parameter, value in zip(balancer.parameters(), (0.3, -0.7), strict=True):
            parameter.fill_(value)
    expected = 0.5 * (math.exp(-0.3) * 2 + 0.3 + math.exp(0.7) * 5 - 0.7)
    assert balancer.combine(torch.tensor([2.0, 5.0])).item() == pytest.approx(expected)


def test_its_own_adam_is_that_of_pytorch_on_the_users_side():
    own, users = Uncertainty(lr=0.05), Uncertainty()
    users.prepare(["a", "b", "c"])
    optimizer = torch.optim.Adam(users.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        values = dict(zip("abc", torch.rand(3, generator=generator).mul(4).tolist(), strict=True))
        # Tasks come and go, and each has a count of steps of its own.
        present = {task: value for i, (task, value) in enumerate(values.items()) if (step + i) % 3 or step < 3}
        own.backward(losses_of(**present))
        users.backward(losses_of(**present))
        torch.testing.assert_close(own.last.weight_values, users.last.weight_values, rtol=1e-4, atol=1e-6)
        optimizer.step()
        optimizer.zero_grad()
    assert log_variances(own) == pytest.approx(log_variances(users), rel=1e-4)


@pytest.mark.parametrize("lr", [None, 0.1])
def test_a_task_that_is_absent_keeps_its_state(lr):
    balancer = Uncertainty(lr)
    balancer.prepare(["a", "b"])
    optimizer = torch.optim.AdamW(balancer.parameters(), lr=0.1) if lr is None else None
    for step in range(6):
        balancer.backward(losses_of(a=2, b=5) if step < 3 else losses_of(a=2))
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        if step == 2:
            before = log_variances(balancer)["b"]
    assert log_variances(balancer)["b"] == before
    assert log_variances(balancer)["a"] > 0


def test_constant_losses_end_with_weights_of_one_over_twice_the_loss():
    balancer = Uncertainty(lr=0.05)
    for _ in range(600):
        balancer.backward(losses_of(a=10, b=0.1))
    assert balancer.last.weights["a"].item() == pytest.approx(0.05, rel=1e-3)
    assert balancer.last.weights["b"].item() == pytest.approx(5, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), seed=st.integers(0, 100))
def test_the_order_of_the_tasks_does_not_matter(order, seed):
    values = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)).tolist()
    straight, shuffled = Uncertainty(lr=0.1), Uncertainty(lr=0.1)
    for row in values:
        losses = dict(zip("abcd", row, strict=True))
        straight.backward(losses_of(**losses))
        shuffled.backward(losses_of(**{task: losses[task] for task in order}))
    assert log_variances(shuffled) == pytest.approx(log_variances(straight))


def test_trunk_and_heads_get_the_weighted_gradients(network, inputs):
    balancer = Uncertainty(lr=0.1)
    for _ in range(3):
        network.zero_grad()
        balancer.backward(network.losses(inputs))
    weights = balancer.last.weight_values.double()
    assert len(set(weights.tolist())) == 3
    torch.testing.assert_close(network.trunk_gradient(), weights @ network.jacobian(inputs), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("lr", [None, 0.1])
def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(lr, tmp_path):
    def train(balancer, optimizer, steps):
        for step in steps:
            present = {"a": 2 + step % 3, "type": 0.3, "b": 5} if step % 2 else {"b": 4 - step % 2}
            balancer.backward(losses_of(**present))
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()

    def make():
        balancer = Uncertainty(lr)
        if lr is not None:
            return balancer, None
        balancer.prepare(["a", "type", "b"])
        return balancer, torch.optim.Adam(balancer.parameters(), lr=0.1)

    whole = make()
    train(*whole, range(10))
    first = make()
    train(*first, range(5))
    torch.save([None if part is None else part.state_dict() for part in first], tmp_path / "state.pt")
    second = make()
    for part, state in zip(second, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        if part is not None:
            part.load_state_dict(state)
    train(*second, range(5, 10))
    assert log_variances(second[0]) == log_variances(whole[0])


@pytest.mark.parametrize("lr", [None, 0.1])
def test_a_state_can_be_loaded_without_preparation(lr):
    trained = Uncertainty(lr)
    trained.prepare(["a", "values"])
    trained.backward(losses_of(a=2, values=3))
    fresh = Uncertainty(lr)
    fresh.load_state_dict(trained.state_dict())
    assert log_variances(fresh) == log_variances(trained)


def test_parameters_are_the_users_only_without_an_own_learning_rate():
    users, own = Uncertainty(), Uncertainty(lr=0.1)
    for balancer in (users, own):
        balancer.prepare(["a", "b"])
        balancer.prepare(["b", "a"])
    assert len(list(users.parameters())) == 2
    assert not list(own.parameters())


def test_log_variances_that_are_made_in_the_first_step_are_announced(caplog):
    balancer = Uncertainty()
    balancer.backward(losses_of(a=1, b=2))
    assert "log-variances of a, b are made only now" in caplog.text
    caplog.clear()
    balancer.backward(losses_of(a=1, b=2))
    assert not caplog.text
    assert len(list(balancer.parameters())) == 2


def test_a_scaler_does_not_change_how_the_log_variances_move():
    plain, scaled = Uncertainty(lr=0.1), Uncertainty(lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for _ in range(3):
        plain.backward(losses_of(a=2, b=3))
        losses = losses_of(a=2, b=3)
        scaled.backward(losses, scaler=scaler)
    assert log_variances(scaled) == log_variances(plain)
    torch.testing.assert_close(scaled.last.weight_values, plain.last.weight_values)
    assert losses["a"].grad.item() == pytest.approx(64 * plain.last.weights["a"].item())


def test_a_loss_that_overflows_does_not_spoil_the_log_variances():
    balancer = Uncertainty(lr=0.1)
    balancer.backward(losses_of(a=2, b=3))
    balancer.backward(losses_of(a=math.inf, b=math.nan))
    assert all(math.isfinite(s) for s in log_variances(balancer).values())


def test_a_learning_rate_that_is_not_positive_is_refused():
    with pytest.raises(UserError, match=r"lr is 0\.0"):
        Uncertainty(lr=0.0)
