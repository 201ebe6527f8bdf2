import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.balancer import Score
from polytask.balancing.dwa import DWA
from polytask.errors import UserError


def step(balancer, **values):
    balancer.backward({task: torch.tensor(float(value), requires_grad=True) for task, value in values.items()})
    return {task: weight.item() for task, weight in balancer.last.weights.items()}


def softmax(temperature=2.0, **rates):
    """The formula of the paper."""
    powers = {task: math.exp(rate / temperature) for task, rate in rates.items()}
    return {task: len(rates) * power / sum(powers.values()) for task, power in powers.items()}


def test_the_weights_are_1_for_two_epochs_and_then_follow_the_rates_of_the_mean_losses():
    balancer = DWA()
    epochs = [
        ([(4, 2), (2, 2)], {"a": 1, "b": 1}),  # means 3 and 2
        ([(1, 2), (2, 1)], {"a": 1, "b": 1}),  # means 1.5 and 1.5
        ([(3, 3), (0, 3), (3, 3)], softmax(a=1.5 / 3, b=1.5 / 2)),  # means 2 and 3
        ([(9, 9)], softmax(a=2 / 1.5, b=3 / 1.5)),
    ]
    for batches, expected in epochs:
        for a, b in batches:
            assert step(balancer, a=a, b=b) == pytest.approx(expected)
        balancer.epoch_end({"a": Score(0.5, True, 0.1)})


def test_the_trunk_gets_the_weighted_gradients(network, inputs):
    balancer = DWA(temperature=0.1)
    for factor in (3.0, 2.0):
        losses = network.losses(inputs)
        balancer.backward({**losses, "a": losses["a"] * factor})
        balancer.epoch_end()
    network.zero_grad()
    balancer.backward(network.losses(inputs))
    weights = balancer.last.weight_values
    assert weights[0] < 0.2
    assert weights.sum().item() == pytest.approx(3)
    torch.testing.assert_close(network.trunk_gradient(), weights @ network.jacobian(inputs))


def test_with_a_window_no_epochs_are_needed():
    balancer = DWA(temperature=1.0, window=2)
    expected = [None] * 4 + [softmax(1.0, a=1 / 3, b=2)] * 2 + [softmax(1.0, a=5, b=1)]
    for (a, b), weights in zip([(4, 1), (2, 1), (1, 3), (1, 1), (4, 2), (6, 2), (1, 1)], expected, strict=True):
        assert step(balancer, a=a, b=b) == pytest.approx(weights or {"a": 1, "b": 1})
        balancer.epoch_end()


def test_a_window_counts_the_steps_of_each_task():
    balancer = DWA(temperature=1.0, window=2)
    for values in [{"a": 4, "b": 1}, {"a": 2}, {"a": 1, "b": 1}, {"a": 1}, {"b": 3}]:
        assert set(step(balancer, **values).values()) == {1}
    # a: means 3 and 1; b: mean 1, and a window that is not over.
    assert step(balancer, a=1, b=1) == pytest.approx(softmax(1.0, a=1 / 3, b=1))
    assert step(balancer, a=1, b=1) == pytest.approx(softmax(1.0, a=1 / 3, b=2))


def test_a_task_without_two_epochs_counts_as_one_that_stands_still():
    balancer = DWA()
    for a in (4, 2):
        step(balancer, a=a)
        balancer.epoch_end()
    assert step(balancer, a=1, new=7) == pytest.approx(softmax(a=0.5, new=1))


def test_an_epoch_in_which_a_task_was_absent_does_not_count_for_it():
    balancer = DWA()
    for values in ({"a": 4, "b": 4}, {"a": 2, "b": 1}, {"a": 2}):
        step(balancer, **values)
        balancer.epoch_end()
    assert step(balancer, b=1, a=1) == pytest.approx(softmax(b=0.25, a=1))


def test_losses_that_are_zero_or_not_finite_are_survived():
    balancer = DWA()
    for values in ({"a": 0, "b": 2, "c": 4}, {"a": 1, "b": 0, "c": math.inf}, {"a": 1, "b": 0, "c": 2}):
        assert set(step(balancer, **values).values()) == {1}
        if values["c"] != math.inf:
            balancer.epoch_end()
    assert step(balancer, a=1, b=1, c=1) == pytest.approx(softmax(a=1, b=0, c=0.5))


def test_one_task_alone_has_weight_1():
    balancer = DWA()
    for value in (3, 2, 1):
        assert step(balancer, a=value) == {"a": 1}
        balancer.epoch_end()


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_neither_the_order_of_the_tasks_nor_the_scale_of_a_loss_matters(order, scale, seed):
    straight, shuffled = DWA(), DWA()
    for row in torch.rand(5, 4, generator=torch.Generator().manual_seed(seed)).add(0.1).tolist():
        losses = dict(zip("abcd", row, strict=True))
        weights = step(straight, **losses)
        changed = step(shuffled, **{task: losses[task] * (scale if task == "c" else 1) for task in order})
        assert changed == pytest.approx(weights, rel=1e-4)
        straight.epoch_end()
        shuffled.epoch_end()


def test_it_agrees_with_torchjd():
    scalarization = pytest.importorskip("torchjd.scalarization")
    ours, theirs = DWA(temperature=0.5), scalarization.DWA(temperature=0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for _ in range(5):
            values = torch.rand(3, generator=generator).add(0.1)
            torch.testing.assert_close(ours.combine(values), theirs(values))
            step(ours, **{str(i): value for i, value in enumerate(values.tolist())})
        ours.epoch_end()
        theirs.step()


@pytest.mark.parametrize("window", [None, 2])
def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(window, tmp_path):
    def train(balancer, steps):
        seen = []
        for number in steps:
            seen.append(
                step(balancer, **({"a": 3 + number % 4, "type": 2, "b": 9 / (number + 1)} if number % 3 else {"b": 4}))
            )
            if number % 4 == 3:
                balancer.epoch_end()
        return seen

    whole, first, second = (DWA(0.5, window) for _ in range(3))
    first.prepare(["a", "type", "b"])
    expected = train(whole, range(20))
    # In the middle of an epoch.
    train(first, range(10))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(second, range(10, 20)) == expected[10:]
    assert len({str(weights) for weights in expected}) > 4


def test_the_mean_of_many_losses_is_exact():
    balancer = DWA(temperature=0.01)
    with torch.no_grad():
        balancer.present = ("a",)
        for _ in range(5_000):
            balancer.observe(torch.tensor([0.1]))
    assert balancer.means.get_buffer("current").item() == pytest.approx(0.1, rel=1e-6)


def test_epochs_that_never_end_are_announced_once(caplog, monkeypatch):
    monkeypatch.setattr("polytask.balancing.dwa._PATIENCE", 3)
    told = DWA()
    step(told, a=1)
    told.epoch_end()
    for balancer in (told, DWA(window=100)):
        for _ in range(6):
            step(balancer, a=1)
    assert not caplog.text
    balancer = DWA()
    for _ in range(8):
        step(balancer, a=1)
    assert caplog.text.count("dwa: 3 steps without epoch_end()") == 1


def test_a_scaler_does_not_change_the_weights():
    plain, scaled = DWA(), DWA()
    for value in (3.0, 2.0, 1.0):
        expected = step(plain, a=value, b=1)
        losses = {task: torch.tensor(v, requires_grad=True) for task, v in (("a", value), ("b", 1.0))}
        scaled.backward(losses, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
        for balancer in (plain, scaled):
            balancer.epoch_end()
    assert {task: weight.item() for task, weight in scaled.last.weights.items()} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("parameters", "message"), [({"temperature": 0}, "temperature is 0"), ({"window": 0}, "window is 0")]
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=f"dwa: {message}"):
        DWA(**parameters)
