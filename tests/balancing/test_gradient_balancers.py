import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing import GramianBalancer, JacobianBalancer
from polytask.errors import UserError


class MinNorm(GramianBalancer):
    """The point of least norm between two gradients, in closed form."""

    paper, year = "a test", 2020

    def weights(self, gramian):
        if len(gramian) == 1:
            return torch.ones(1, dtype=gramian.dtype)
        (aa, ab), (_, bb) = gramian
        w = ((bb - ab) / (aa + bb - 2 * ab)).clamp(0, 1)
        return torch.stack([w, 1 - w])


class InverseLength(GramianBalancer):
    """Unit gradients; notes what it is given."""

    paper, year = "a test", 2020

    def weights(self, gramian):
        self.given = gramian
        return gramian.diagonal().rsqrt()


class Agreement(JacobianBalancer):
    """The sum where all tasks agree in sign, else 0."""

    paper, year = "a test", 2020

    def combine(self, jacobian):
        agrees = (jacobian.sign() == jacobian[0].sign()).all(0)
        return jacobian.sum(0) * agrees


def test_combining_gives_the_golden_update_of_the_least_norm(golden):
    cases = [(c, e) for c in golden if len(c["jacobian"]) == 2 for e in c["expected"] if e["method"] == "mgda"]
    assert cases
    for case, expected in cases:
        jacobian = torch.tensor(case["jacobian"], dtype=torch.float64)
        torch.testing.assert_close(
            MinNorm().combine(jacobian), torch.tensor(expected["update"], dtype=torch.float64), rtol=1e-7, atol=1e-8
        )


@pytest.mark.parametrize("given_shared", [True, False])
@pytest.mark.parametrize("balancer", [InverseLength(), Agreement()])
def test_the_trunk_gets_the_combined_gradient_and_each_head_its_own(network, inputs, balancer, given_shared):
    losses = network.losses(inputs)
    own = {
        task: torch.autograd.grad(losses[task], list(head.parameters()), retain_graph=True)
        for task, head in network.heads.items()
    }
    balancer.backward(losses, network.trunk.parameters() if given_shared else None)
    torch.testing.assert_close(network.trunk_gradient(), balancer.combine(network.jacobian(inputs)))
    for task, head in network.heads.items():
        torch.testing.assert_close(tuple(p.grad for p in head.parameters()), own[task])


def test_gradients_accumulate_on_what_is_there(network, inputs):
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    InverseLength().backward(network.losses(inputs))
    expected = InverseLength().combine(network.jacobian(inputs))
    torch.testing.assert_close(network.trunk_gradient(), 1 + expected)
    head = network.heads["a"].bias.grad.clone()
    network.zero_grad()
    network.losses(inputs)["a"].backward()
    torch.testing.assert_close(head, 1 + network.heads["a"].bias.grad)


def test_the_method_sees_the_gramian_in_float64_on_the_cpu_and_the_step_holds_it(network, inputs):
    network.float()
    balancer = InverseLength()
    balancer.backward(network.losses(inputs.float()))
    assert (balancer.given.dtype, balancer.given.device.type) == (torch.float64, "cpu")
    assert balancer.last.gramian is balancer.given
    torch.testing.assert_close(balancer.last.weight_values, balancer.given.diagonal().rsqrt())
    assert list(balancer.last.weights) == ["a", "b", "c"]


def test_a_method_on_the_jacobian_has_no_weights(network, inputs):
    balancer = Agreement()
    balancer.backward(network.losses(inputs))
    assert balancer.last.weights == {}
    assert list(balancer.last.losses) == ["a", "b", "c"]


def test_tasks_can_be_absent_from_a_step(network, inputs):
    losses = network.losses(inputs)
    balancer = InverseLength()
    balancer.backward({"c": losses["c"], "a": losses["a"]}, network.trunk.parameters())
    assert balancer.last.tasks == ("c", "a")
    torch.testing.assert_close(network.trunk_gradient(), balancer.combine(network.jacobian(inputs)[[2, 0]]))
    assert network.heads["b"].weight.grad is None


@pytest.mark.parametrize("balancer", [MinNorm(), Agreement()])
def test_one_task_alone_is_plain_backward(make_network, inputs, balancer):
    network = make_network("only")
    for shared in (None, list(network.trunk.parameters())):
        network.zero_grad()
        balancer.backward(network.losses(inputs), shared)
        torch.testing.assert_close(network.trunk_gradient(), network.jacobian(inputs)[0])


@pytest.mark.parametrize("balancer", [MinNorm(), Agreement()])
def test_where_nothing_is_shared_each_parameter_gets_its_own_gradient(balancer):
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    balancer.backward([(a * 2).sum(), (b * 3).sum()])
    assert (a.grad.tolist(), b.grad.tolist()) == ([2, 2], [3, 3])
    assert balancer.last.weights == {}


def test_parameters_that_several_tasks_reach_but_that_are_not_called_shared_get_the_plain_sum(network, inputs):
    balancer = InverseLength()
    last = list(network.trunk[2].parameters())
    balancer.backward(network.losses(inputs), last)
    jacobian = network.jacobian(inputs)
    first = sum(p.numel() for p in network.trunk[0].parameters())
    found = network.trunk_gradient()
    torch.testing.assert_close(found[:first], jacobian.sum(0)[:first])
    torch.testing.assert_close(found[first:], balancer.combine(jacobian[:, first:]))


def test_unused_shared_parameters_and_tasks_that_do_not_reach_the_trunk_are_fine(network, inputs):
    unused = nn.Linear(2, 2)
    shared = [*network.trunk.parameters(), *unused.parameters()]
    other = nn.Linear(1, 1).double()
    losses = {**network.losses(inputs), "other": other(torch.ones(1, 1, dtype=torch.float64)).sum()}
    losses["constant"] = torch.tensor(1.0, dtype=torch.float64)

    class Sum(GramianBalancer):
        def weights(self, gramian):
            assert not gramian[3:].any()
            return torch.ones(len(gramian), dtype=gramian.dtype)

    balancer = Sum()
    balancer.backward(losses, shared)
    assert unused.weight.grad is None
    assert other.weight.grad.item() == 1
    torch.testing.assert_close(network.trunk_gradient(), network.jacobian(inputs).sum(0))


@pytest.mark.parametrize("balancer", [InverseLength(), Agreement()])
def test_with_a_scaler_the_method_sees_the_true_scale_and_the_step_is_the_same(network, inputs, balancer):
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    balancer.backward(network.losses(inputs), scaler=scaler)
    expected = balancer.combine(network.jacobian(inputs))
    torch.testing.assert_close(network.trunk_gradient(), 256 * expected)
    if balancer.last.gramian is not None:
        jacobian = network.jacobian(inputs)
        torch.testing.assert_close(balancer.last.gramian, jacobian @ jacobian.T)
    scaler.unscale_(torch.optim.SGD(network.parameters(), lr=1.0))
    torch.testing.assert_close(network.trunk_gradient(), expected)


def test_a_step_that_overflows_in_float16_is_left_to_the_scaler(network, inputs):
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = network.trunk[0].weight.detach().clone()
    losses = network.losses(inputs)
    balancer = InverseLength()
    balancer.backward({**losses, "a": losses["a"] * torch.inf}, scaler=scaler)
    assert not hasattr(balancer, "given")
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 128
    assert torch.equal(network.trunk[0].weight, before)


def test_a_loss_that_is_not_finite_is_named_and_leaves_no_gradient_behind(network, inputs):
    losses = network.losses(inputs)
    with pytest.raises(UserError, match="gradient of task 'b' is not finite"):
        InverseLength().backward({**losses, "b": losses["b"] * torch.nan})
    assert all(p.grad is None for p in network.parameters())


def test_a_weight_that_is_not_finite_is_named(network, inputs):
    losses = network.losses(inputs)
    with pytest.raises(UserError, match="InverseLength gave task 'b' a weight that is not finite"):
        InverseLength().backward({**losses, "b": losses["b"] * 0}, network.trunk.parameters())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), tasks=st.integers(2, 5))
def test_the_order_of_the_tasks_does_not_matter(seed, tasks):
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(tasks, 6, dtype=torch.float64, generator=generator)
    order = torch.randperm(tasks, generator=generator)
    torch.testing.assert_close(InverseLength().combine(jacobian[order]), InverseLength().combine(jacobian))
    theta = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    InverseLength().backward({str(i): jacobian[i] @ theta for i in order.tolist()}, [theta])
    torch.testing.assert_close(theta.grad, InverseLength().combine(jacobian))
