"""The options that all methods on the Gramian have."""

import copy

import pytest
import torch
from torch import nn

from polytask.balancing import GramianBalancer
from polytask.errors import UserError


class InverseLength(GramianBalancer):
    """Unit gradients; counts how often it is asked."""

    paper, year = "a test", 2020
    asked = 0

    def weights(self, gramian):
        self.asked += 1
        return gramian.diagonal().rsqrt()


class First(GramianBalancer):
    """The first task alone."""

    paper, year = "a test", 2020

    def weights(self, gramian):
        weights = torch.zeros(len(gramian), dtype=gramian.dtype)
        weights[0] = 2.0
        return weights


def gradients(network):
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def step(balancer, network, inputs, losses=None, **options):
    network.zero_grad()
    balancer.backward(losses or network.losses(inputs), network.trunk.parameters(), **options)
    return gradients(network)


def expected(network, inputs, weights, head_weights=(1, 1, 1)):
    """The gradients with given weights for the trunk and the heads."""
    jacobian = network.jacobian(inputs)
    network.zero_grad()
    losses = network.losses(inputs)
    sum(h * loss for h, loss in zip(head_weights, losses.values(), strict=True)).backward()
    found = gradients(network)
    update = torch.tensor(weights, dtype=torch.float64) @ jacobian
    for (name, parameter), piece in zip(
        network.trunk.named_parameters(), update.split([p.numel() for p in network.trunk.parameters()]), strict=True
    ):
        found[f"trunk.{name}"] = piece.view_as(parameter)
    return found


def inverse_lengths(network, inputs):
    return network.jacobian(inputs).norm(dim=1).reciprocal().tolist()


@pytest.mark.parametrize("update", ["gradients", "backward"])
def test_both_ways_of_making_the_update_give_the_same(network, inputs, update):
    weights = inverse_lengths(network, inputs)
    found = step(InverseLength(update=update), network, inputs)
    torch.testing.assert_close(found, expected(network, inputs, weights))


@pytest.mark.parametrize("update", ["gradients", "backward"])
@pytest.mark.parametrize("method", [InverseLength, First])
def test_heads_can_be_weighted_too(network, inputs, update, method):
    weights = method().weights(network.jacobian(inputs) @ network.jacobian(inputs).T).tolist()
    found = step(method(update=update, weight_heads=True), network, inputs)
    torch.testing.assert_close(found, expected(network, inputs, weights, weights))


def test_held_weights_are_applied_to_new_gradients_by_one_pass(network, inputs):
    balancer = InverseLength(every=2)
    step(balancer, network, inputs)
    weights = balancer.last.weight_values.tolist()
    other = inputs + 1
    found = step(balancer, network, other)
    assert balancer.asked == 1
    assert balancer.last.gramian is None
    torch.testing.assert_close(
        balancer.last.weight_values, torch.tensor(weights, dtype=torch.float64), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(found, expected(network, other, weights), rtol=1e-5, atol=1e-7)
    step(balancer, network, other)
    assert balancer.asked == 2


def test_weights_from_the_features_or_the_last_layer_are_applied_to_all_parameters(network, inputs):
    features = network.trunk(inputs)
    losses = [(head(features) - i).square().mean() for i, head in enumerate(network.heads.values())]
    rows = torch.stack([torch.autograd.grad(loss, features, retain_graph=True)[0].flatten() for loss in losses])
    last = list(network.trunk[2].parameters())
    columns = sum(p.numel() for p in last)
    for on, lengths in [("features", rows.norm(dim=1)), ("last", network.jacobian(inputs)[:, -columns:].norm(dim=1))]:
        for update in ("gradients", "backward"):
            found = step(InverseLength(on=on, update=update), network, inputs)
            torch.testing.assert_close(found, expected(network, inputs, lengths.reciprocal().tolist()))


def test_features_need_one_place_where_the_heads_read(network, inputs):
    middle = network.trunk[1](network.trunk[0](inputs))
    late = network.trunk[2](middle)
    losses = {"a": middle.sum(), "b": late.sum(), "c": late.square().sum()}
    with pytest.raises(UserError, match="on='features' needs one place"):
        InverseLength(on="features").backward(losses, network.trunk.parameters())


def test_long_task_gradients_are_clipped_before_the_method_sees_them(network, inputs):
    lengths = network.jacobian(inputs).norm(dim=1)
    limit = lengths.median().item()

    class Ones(GramianBalancer):
        paper, year = "a test", 2020

        def weights(self, gramian):
            assert (gramian.diagonal().sqrt() <= limit * (1 + 1e-12)).all()
            return torch.ones(len(gramian), dtype=gramian.dtype)

    found = step(Ones(clip_task_norm=limit), network, inputs)
    torch.testing.assert_close(found, expected(network, inputs, (limit / lengths).clamp(max=1).tolist()))


def test_the_memory_budget_changes_nothing_but_the_passes(network, inputs):
    plain = step(InverseLength(), network, inputs)
    torch.testing.assert_close(step(InverseLength(memory_budget=1e-5), network, inputs), plain)


def test_weights_can_be_found_on_a_part_of_the_batch(network, inputs):
    part = inputs[:3]
    weights = inverse_lengths(network, part)
    for probe in (network.losses(part), list(network.losses(part).values())):
        found = step(InverseLength(batch_fraction=0.5), network, inputs, probe=probe)
        torch.testing.assert_close(found, expected(network, inputs, weights))
    with pytest.raises(UserError, match="needs probe="):
        step(InverseLength(batch_fraction=0.5), network, inputs)
    with pytest.raises(UserError, match="no loss of task 'c'"):
        losses = network.losses(part)
        del losses["c"]
        step(InverseLength(batch_fraction=0.5), network, inputs, probe=losses)


def test_a_method_can_run_on_the_logarithms_of_the_losses(network, inputs):
    balancer = InverseLength(log_losses=True)
    found = step(balancer, network, inputs)
    values = torch.stack(list(network.losses(inputs).values())).detach()
    logs = network.jacobian(inputs) / (values + 1e-8).unsqueeze(1)
    weights = logs.norm(dim=1).reciprocal() / (values + 1e-8)
    head_weights = (1 / (values + 1e-8)).tolist()
    torch.testing.assert_close(found, expected(network, inputs, weights.tolist(), head_weights))
    torch.testing.assert_close(balancer.last.loss_values, (values + 1e-8).log())


def test_the_step_says_how_long_the_gradients_are_and_which_way_they_point(network, inputs):
    balancer = InverseLength()
    step(balancer, network, inputs)
    jacobian = network.jacobian(inputs)
    lengths = jacobian.norm(dim=1)
    torch.testing.assert_close(torch.stack(list(balancer.last.norms.values())), lengths)
    unit = jacobian / lengths.unsqueeze(1)
    torch.testing.assert_close(balancer.last.cosines, unit @ unit.T)


def test_losses_are_there_during_the_step_and_gone_after_it(network, inputs):
    class Looks(GramianBalancer):
        paper, year = "a test", 2020

        def weights(self, gramian):
            self.seen = self.losses
            return torch.ones(len(gramian), dtype=gramian.dtype)

    balancer = Looks()
    losses = network.losses(inputs)
    step(balancer, network, inputs, losses)
    assert balancer.seen.tolist() == [loss.item() for loss in losses.values()]
    assert balancer.losses is None


def test_a_balancer_can_be_copied_after_a_step(network, inputs):
    balancer = InverseLength(every=3, smoothing=0.5)
    step(balancer, network, inputs)
    twin = copy.deepcopy(balancer)
    torch.testing.assert_close(step(twin, network, inputs), step(balancer, network, inputs))


def test_the_same_losses_twice_are_a_clear_error(network, inputs):
    losses = network.losses(inputs)
    balancer = InverseLength()
    step(balancer, network, inputs, losses)
    with pytest.raises(UserError, match="used up by an earlier backward pass"):
        step(balancer, network, inputs, losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0, but must be at least 1"),
        ({"on": "heads"}, "on is 'heads', but must be"),
        ({"batch_fraction": 0.0}, "batch_fraction is 0.0"),
        ({"update": "forward"}, "update is 'forward'"),
        ({"memory_budget": 0}, "memory_budget is 0"),
        ({"clip_task_norm": -1}, "clip_task_norm is -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        InverseLength(**options)


def test_a_parameter_that_is_spread_over_processes_is_refused():
    class DTensor(nn.Parameter):
        pass

    weight = DTensor(torch.ones(2))
    with pytest.raises(UserError, match="distributed over several processes"):
        InverseLength().backward([weight.sum(), weight.square().sum()], [weight])


@pytest.mark.parametrize("processes", [1, 2])
def test_several_processes_are_refused_until_they_exchange_task_gradients(network, inputs, monkeypatch, processes):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
    if processes == 1:
        step(InverseLength(), network, inputs)
    else:
        with pytest.raises(UserError, match="several processes do not exchange by themselves"):
            step(InverseLength(), network, inputs)


def test_hooks_after_accumulation_are_refused_where_they_would_not_be_called(network, inputs):
    called = []
    network.trunk[0].weight.register_post_accumulate_grad_hook(called.append)
    with pytest.raises(UserError, match="Use update='backward'"):
        step(InverseLength(), network, inputs)
    step(InverseLength(update="backward"), network, inputs)
    assert len(called) == 1


@pytest.mark.parametrize("options", [{}, {"log_losses": True}])
def test_that_gradients_are_not_recorded_at_the_call_changes_nothing(network, inputs, options):
    plain = step(InverseLength(**options), network, inputs)
    losses = network.losses(inputs)
    network.zero_grad()
    with torch.no_grad():
        InverseLength(**options).backward(losses, network.trunk.parameters())
    torch.testing.assert_close(gradients(network), plain)


@pytest.mark.parametrize("named", [True, False])
def test_complex_parameters_are_refused_with_the_remedy(named):
    weight = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    losses = [weight.abs().sum(), weight.abs().square().sum()]
    with pytest.raises(UserError, match=r"Shared parameter 0, of shape \(2,\), is complex.*view_as_complex"):
        InverseLength().backward(losses, [weight] if named else None)
