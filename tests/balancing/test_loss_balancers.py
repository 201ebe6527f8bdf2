import copy

import pytest
import torch
from torch import nn

from polytask import balancing
from polytask.balancing import Equal, LossBalancer
from polytask.errors import UserError


class Geometric(LossBalancer):
    paper, year = "a test", 2020

    def combine(self, losses):
        return losses.log().mean().exp()


class Remembering(LossBalancer):
    paper, year = "a test", 2020

    def __init__(self):
        super().__init__()
        self.seen = []

    def combine(self, losses):
        return losses.sum()

    def observe(self, losses):
        self.seen.append((self.present, losses.tolist(), losses.requires_grad))


def test_equal_is_the_sum_of_the_losses(network, inputs):
    sum(network.losses(inputs).values()).backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters()}
    for shared in (None, network.trunk.parameters()):
        network.zero_grad()
        Equal().backward(network.losses(inputs), shared)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name])


def test_equal_gives_the_golden_updates(golden):
    cases = [(case, e) for case in golden for e in case["expected"] if e["method"] == "equal"]
    assert len(cases) == 11
    for case, expected in cases:
        jacobian = torch.tensor(case["jacobian"], dtype=torch.float64)
        theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=torch.float64))
        balancer = Equal()
        balancer.backward(list(jacobian @ theta))
        torch.testing.assert_close(theta.grad, torch.tensor(expected["update"], dtype=torch.float64))
        assert balancer.last.weight_values.tolist() == expected["weights"]


def test_gradients_accumulate(network, inputs):
    Equal().backward(network.losses(inputs))
    once = network.trunk_gradient()
    Equal().backward(network.losses(inputs))
    torch.testing.assert_close(network.trunk_gradient(), 2 * once)


def test_the_step_holds_detached_losses_and_weights_by_task(network, inputs):
    balancer = Equal()
    assert balancer.last is None
    losses = network.losses(inputs)
    balancer.backward(losses)
    assert balancer.last.tasks == ("a", "b", "c")
    assert {task: value.item() for task, value in balancer.last.losses.items()} == {
        task: value.item() for task, value in losses.items()
    }
    assert {task: value.item() for task, value in balancer.last.weights.items()} == {"a": 1, "b": 1, "c": 1}
    assert not balancer.last.loss_values.requires_grad
    assert balancer.last.gramian is None


def test_the_weights_are_the_derivatives_of_the_combined_loss(network, inputs):
    balancer = Geometric()
    losses = network.losses(inputs)
    values = torch.stack(list(losses.values())).detach()
    balancer.backward(losses)
    torch.testing.assert_close(balancer.last.weight_values, values.log().mean().exp() / (3 * values))
    torch.testing.assert_close(network.trunk_gradient(), balancer.last.weight_values @ network.jacobian(inputs))


def test_losses_in_order_are_named_by_their_positions(network, inputs):
    balancer = Equal()
    balancer.backward(tuple(network.losses(inputs).values()))
    assert balancer.last.tasks == ("0", "1", "2")


def test_one_task_alone_is_plain_backward(make_network, inputs):
    network = make_network("only")
    network.losses(inputs)["only"].backward()
    expected = network.trunk_gradient()
    network.zero_grad()
    Equal().backward(network.losses(inputs))
    torch.testing.assert_close(network.trunk_gradient(), expected)


def test_constant_losses_are_fine_beside_others(network, inputs):
    losses = {**network.losses(inputs), "constant": torch.tensor(2.0, dtype=torch.float64)}
    Equal().backward(losses)
    torch.testing.assert_close(network.trunk_gradient(), network.jacobian(inputs).sum(0))


def test_unused_and_frozen_parameters_stay_without_a_gradient(network, inputs):
    network.unused = nn.Linear(2, 2)
    network.trunk[0].requires_grad_(False)
    Equal().backward(network.losses(inputs))
    assert network.unused.weight.grad is None
    assert network.trunk[0].weight.grad is None
    assert network.trunk[2].weight.grad is not None


def test_the_losses_are_observed_after_the_step(network, inputs):
    balancer = Remembering()
    losses = network.losses(inputs)
    balancer.backward({"c": losses["c"], "a": losses["a"]})
    assert balancer.seen == [(("c", "a"), [losses["c"].item(), losses["a"].item()], False)]


def test_with_a_scaler_gradients_are_scaled_and_weights_are_not(network, inputs):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    balancer = Equal()
    balancer.backward(network.losses(inputs), scaler=scaler)
    torch.testing.assert_close(network.trunk_gradient(), 1024 * network.jacobian(inputs).sum(0))
    assert balancer.last.weight_values.tolist() == [1, 1, 1]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = network.trunk[0].weight.detach().clone()
    expected = torch.autograd.grad(sum(network.losses(inputs).values()), network.trunk[0].weight)[0]
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(network.trunk[0].weight.detach(), before - expected)


def test_a_disabled_scaler_changes_nothing(network, inputs):
    balancer = Equal()
    balancer.backward(network.losses(inputs), scaler=torch.amp.GradScaler("cpu", enabled=False))
    torch.testing.assert_close(network.trunk_gradient(), network.jacobian(inputs).sum(0))
    assert balancer.last.weight_values.tolist() == [1, 1, 1]


def test_a_balancer_can_be_copied_after_a_step(network, inputs):
    balancer = Equal()
    balancer.backward(network.losses(inputs))
    assert copy.deepcopy(balancer).last.tasks == ("a", "b", "c")
    assert balancer.state_dict() == {}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "no losses to balance"),
        ([], "no losses to balance"),
        ({"seg": torch.ones(3, requires_grad=True)}, r"loss of task 'seg' is a tensor of shape \(3,\).*scalar"),
        ({"seg": 1.0}, "loss of task 'seg' is 1.0"),
        ({"seg": torch.tensor(1.0)}, r"No loss depends on a parameter.*'seg'"),
    ],
)
def test_losses_that_cannot_be_balanced_are_refused(losses, message):
    with pytest.raises(UserError, match=message):
        Equal().backward(losses)


def test_a_step_that_overflows_in_float16_leaves_the_methods_state_as_it_was():
    balancer = balancing.create("uncertainty", lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    parameter = nn.Parameter(torch.ones(()))
    balancer.backward({"a": parameter * 3, "b": parameter * 2}, scaler=scaler)
    before = {name: value.clone() for name, value in balancer.named_buffers()}
    balancer.backward({"a": parameter * 3, "b": parameter * torch.inf}, scaler=scaler)
    assert all(torch.equal(value, before[name]) for name, value in balancer.named_buffers())
    balancer.backward({"a": parameter * 3, "b": parameter * 2}, scaler=scaler)
    assert not torch.equal(balancer.log_variances.value, before["log_variances.value"])
