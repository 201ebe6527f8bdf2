import copy
import logging
import math

import pytest
import torch
from torch import nn

from polytask.balancing import AutoLambda, Equal
from polytask.errors import UserError


def weights(balancer, *tasks):
    return balancer.learned.read("value", tasks, torch.device("cpu")).tolist()


def slopes_of(balancer, monkeypatch):
    """Note what Adam is given."""
    noted = []
    monkeypatch.setattr(
        balancer.learned, "step", lambda tasks, slope: noted.append(dict(zip(tasks, slope, strict=True)))
    )
    return noted


def point(*values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def test_the_slopes_are_the_hand_worked_ones(monkeypatch):
    theta = point(1.0, 2.0)
    balancer = AutoLambda("main", initial=0.5)
    noted = slopes_of(balancer, monkeypatch)
    # L_main = x² + y, L_a = 3 x - y: the look-ahead is (1, 2) - 0.1 * 0.5 * ((2, 1) + (3, -1)) = (0.75, 2). The
    # validation loss x² / 2 + 2 y has the gradient (0.75, 2) there, and the products with it are 3.5 and 0.25.
    training = lambda: {"main": theta[0] ** 2 + theta[1], "a": 3 * theta[0] - theta[1]}  # noqa: E731
    balancer.before_step(training, lambda: {"main": theta[0] ** 2 / 2 + 2 * theta[1], "a": theta.sum()}, [theta], 0.1)
    assert noted[0]["main"].item() == pytest.approx(-0.1 * 3.5)
    assert noted[0]["a"].item() == pytest.approx(-0.1 * 0.25)
    assert theta.tolist() == [1, 2]
    assert theta.grad is None


def test_the_difference_is_taken_over_the_stated_distance(monkeypatch):
    theta = point(1.0)
    balancer = AutoLambda("main", initial=1.0, epsilon=0.5)
    noted = slopes_of(balancer, monkeypatch)
    seen = []

    def training():
        seen.append(theta.item())
        return {"main": (theta**4).sum()}

    balancer.before_step(training, lambda: {"main": 3 * theta.sum()}, [theta], 0.01)
    assert seen == pytest.approx([1.0, 1.5, 0.5])
    # epsilon / |d| = 0.5 / 3 times d = 3 is 0.5 to both sides.
    assert noted[0]["main"].item() == pytest.approx(-0.01 * (1.5**4 - 0.5**4) / (2 * 0.5 / 3))


def test_the_slope_is_the_derivative_of_the_validation_loss_after_the_step(make_network, inputs, monkeypatch):
    network = make_network("main", "a", "b")
    balancer = AutoLambda(["main", "b"], initial=0.3)
    noted = slopes_of(balancer, monkeypatch)
    other = inputs.flip(0) + 0.3
    parameters = list(network.parameters())
    before = [p.detach().clone() for p in parameters]
    lr = 0.05

    def validated(factors):
        losses = network.losses(inputs)
        total = sum(factor * loss for factor, loss in zip(factors, losses.values(), strict=True))
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(lr * gradient)
            losses = network.losses(other)
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
        return (losses["main"] + losses["b"]).item()

    balancer.before_step(lambda: network.losses(inputs), lambda: network.losses(other), parameters, lr)
    for number, task in enumerate(["main", "a", "b"]):
        factors = [[0.3 + (sign * 1e-5 if i == number else 0) for i in range(3)] for sign in (1, -1)]
        expected = (validated(factors[0]) - validated(factors[1])) / 2e-5
        assert noted[0][task].item() == pytest.approx(expected, rel=1e-3)
    assert all(torch.equal(p, value) for p, value in zip(parameters, before, strict=True))


def test_the_weights_multiply_the_losses_and_are_moved_by_adam():
    theta = point(1.0)
    balancer = AutoLambda("main", initial=0.1, lr=0.01)
    training = lambda: {"main": 2 * theta.sum(), "a": -theta.sum()}  # noqa: E731
    balancer.before_step(training, lambda: {"main": theta.sum()}, [theta], 0.1)
    # The first step of Adam is as long as its learning rate.
    assert weights(balancer, "main", "a") == pytest.approx([0.11, 0.09], abs=1e-6)
    balancer.backward(training())
    assert theta.grad.item() == pytest.approx(0.11 * 2 - 0.09, abs=1e-6)
    assert balancer.last.weight_values.tolist() == pytest.approx([0.11, 0.09], abs=1e-6)


def test_weights_do_not_fall_below_zero():
    theta = point(1.0)
    balancer = AutoLambda("main", lr=0.04)
    for _ in range(5):
        balancer.before_step(
            lambda: {"main": theta.sum(), "a": -theta.sum()}, lambda: {"main": theta.sum()}, [theta], 0.1
        )
    assert weights(balancer, "a") == [0]
    assert weights(balancer, "main")[0] == pytest.approx(0.3, abs=1e-3)


def test_losses_computed_before_can_still_be_passed_backward(make_network, inputs):
    network = make_network("main", "a")
    balancer, twin = AutoLambda("main", normalize="sum_to_k"), copy.deepcopy(network)
    losses = network.losses(inputs)
    balancer.before_step(lambda: network.losses(inputs), lambda: network.losses(-inputs), network.parameters(), 0.1)
    balancer.learned.write("value", ["main", "a"], torch.ones(2))
    balancer.backward(losses)
    Equal().backward(twin.losses(inputs))
    for ours, expected in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


def test_all_passes_over_the_batch_draw_the_random_numbers_of_the_step(make_network, inputs):
    drawn = []
    network = make_network("main", "a")

    def training():
        drawn.append(torch.rand(()).item())
        return network.losses(inputs)

    def validation():
        torch.rand(3)
        return network.losses(-inputs)

    torch.manual_seed(3)
    AutoLambda("main").before_step(training, validation, network.parameters(), 0.1)
    drawn.append(torch.rand(()).item())
    assert len(drawn) == 4
    assert len(set(drawn)) == 1


def test_frozen_and_unused_parameters_and_sparse_gradients_are_fine():
    table, frozen, unused = nn.Embedding(3, 2, sparse=True), point(1.0).requires_grad_(False), point(1.0)
    balancer = AutoLambda("main", lr=0.01)

    def losses():
        found = table(torch.tensor([0, 1]))
        return {"main": found.square().sum() * frozen.sum(), "a": found.sum()}

    before = table.weight.detach().clone()
    balancer.before_step(losses, losses, [table.weight, frozen, unused], 0.01)
    assert torch.equal(table.weight, before)
    assert weights(balancer, "main")[0] == pytest.approx(0.11, abs=1e-4)


def test_a_scaler_changes_nothing(make_network, inputs):
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=512.0)):
        network = make_network("main", "a")
        balancer = AutoLambda("main", lr=0.01)
        for _ in range(3):
            balancer.before_step(
                lambda network=network: network.losses(inputs),
                lambda network=network: network.losses(-inputs),
                network.parameters(),
                0.1,
                scaler=scaler,
            )
        found.append(weights(balancer, "main", "a"))
    assert found[0] == pytest.approx(found[1])
    assert found[0] != [0.1, 0.1]


@pytest.mark.parametrize("broken", [0.0, math.nan, math.inf])
def test_a_validation_gradient_of_zero_or_no_number_leaves_the_weights(broken):
    theta = point(1.0)
    balancer = AutoLambda("main")
    balancer.before_step(lambda: {"main": theta.sum()}, lambda: {"main": theta.sum() * broken}, [theta], 0.1)
    assert weights(balancer, "main") == pytest.approx([0.1])
    assert theta.item() == 1


def test_a_validation_batch_can_lack_the_main_tasks_where_they_are_known():
    theta = point(1.0)
    balancer = AutoLambda("main")
    balancer.prepare(["main", "a"])
    balancer.before_step(lambda: {"a": theta.sum()}, lambda: {"a": theta.sum()}, [theta], 0.1)
    assert weights(balancer, "main", "a") == pytest.approx([0.1, 0.1])
    with pytest.raises(UserError, match="auto_lambda: none of the main tasks"):
        AutoLambda("main").before_step(lambda: {"a": theta.sum()}, lambda: {"a": theta.sum()}, [theta], 0.1)


def test_the_parameters_come_back_from_an_error():
    theta = point(1.0)

    def validation():
        raise RuntimeError("no more data")

    with pytest.raises(RuntimeError, match="no more data"):
        AutoLambda("main").before_step(lambda: {"main": theta.sum()}, validation, [theta], 0.1)
    assert theta.item() == 1


def test_it_finds_out_which_of_two_tasks_helps():
    theta = nn.Parameter(torch.tensor([2.0, 2.0]))
    balancer = AutoLambda("main", initial=0.5, lr=0.01)
    optimizer = torch.optim.SGD([theta], lr=0.02)

    def losses():
        near, far = theta - torch.tensor([0.1, 0.0]), theta - torch.tensor([9.0, 9.0])
        return {"main": theta.square().sum(), "near": near.square().sum(), "far": far.square().sum()}

    for _ in range(150):
        balancer.before_step(losses, losses, [theta], 0.02)
        optimizer.zero_grad()
        balancer.backward(losses())
        optimizer.step()
    assert weights(balancer, "far") == [0]
    assert weights(balancer, "near")[0] > 0.4
    assert theta.square().sum() < 0.05


def test_without_looking_ahead_the_weights_stay_and_that_is_said(caplog):
    theta = point(1.0)
    balancer = AutoLambda("main")
    with caplog.at_level(logging.WARNING, "polytask"):
        for _ in range(3):
            balancer.backward({"main": theta.sum(), "a": theta.sum()})
    assert caplog.text.count("before_step") == 1
    assert theta.grad.item() == pytest.approx(0.6)


def test_other_methods_ask_for_nothing_and_take_the_call():
    theta = point(1.0)
    balancer = Equal()
    assert AutoLambda("main").wants_validation
    assert not balancer.wants_validation
    balancer.before_step(lambda: {"a": theta.sum()}, lambda: {"a": theta.sum()}, [theta], 0.1)
    assert theta.item() == 1


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(make_network, inputs, tmp_path):
    def train(balancer, network, steps):
        found = []
        for i in steps:
            batch = inputs + 0.1 * i
            balancer.before_step(
                lambda batch=batch: network.losses(batch),
                lambda batch=batch: network.losses(-batch),
                network.parameters(),
                0.1,
            )
            found.append(weights(balancer, "main", "a"))
        return found

    network = make_network("main", "a")
    whole = train(AutoLambda("main", lr=0.01), network, range(6))
    first, second = (AutoLambda("main", lr=0.01) for _ in range(2))
    train(first, network, range(3))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(second, network, range(3, 6)) == whole[3:]


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="auto_lambda looks ahead in one process only"):
        AutoLambda("main").before_step(dict, dict, [point(1.0)], 0.1)


@pytest.mark.parametrize("name", ["initial", "lr", "epsilon"])
@pytest.mark.parametrize("value", [0.0, math.inf])
def test_bad_parameters_are_refused(name, value):
    with pytest.raises(UserError, match=f"auto_lambda: {name} is {value}"):
        AutoLambda("main", **{name: value})


def test_a_main_task_that_is_no_task_is_refused():
    with pytest.raises(UserError, match="auto_lambda: the main task 'main' is no task"):
        AutoLambda("main").prepare(["a", "b"])
