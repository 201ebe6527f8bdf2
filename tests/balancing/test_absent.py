import copy
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask import balancing
from polytask.balancing import GradientSum, GramianBalancer
from polytask.errors import UserError

PARAMETERS = {
    "pivrg": {"references": {"a": 1.0, "b": 0.5, "c": 0.3}},
    "gradient_cosine": {"main": "a"},
    "ol_aux": {"main": "a"},
    "gradnorm": {"on": "parameters"},
}
METHODS = [
    name
    for name in balancing.names()
    if issubclass(balancing.family.get(name), GramianBalancer)
    and not issubclass(balancing.family.get(name), balancing.IndependentBatches)
]


def make(name, **options):
    return balancing.create(name, **PARAMETERS.get(name, {}), **{"absent": "last", **options})


def rows(seed, tasks=3, size=4):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, gradients, start=5.0):
    """The update where the tasks have these gradients."""
    theta = nn.Parameter(torch.zeros(len(next(iter(gradients.values()))), dtype=torch.float64))
    balancer.backward({task: row @ theta + start for task, row in gradients.items()}, [theta])
    return theta.grad


class Weighted(GramianBalancer):
    """The first task alphabetically counts once, the second twice, and so on; notes what it is given."""

    paper, year = "a test", 2020

    def weights(self, gramian):
        self.given, self.tasks, self.values = gramian, self.tasks_of(gramian), self.losses.tolist()
        return torch.tensor([1.0 + "abc".index(task) for task in self.tasks], dtype=gramian.dtype)


def test_an_absent_task_takes_part_with_the_gradient_and_the_loss_that_it_had():
    balancer = Weighted(absent="last")
    first, second = rows(0), rows(1)
    step(balancer, {"a": first[0], "b": first[1]}, start=2.0)
    update = step(balancer, {"c": second[2], "a": second[0]}, start=3.0)
    together = torch.stack([second[2], second[0], first[1]])
    assert balancer.tasks == ("c", "a", "b")
    assert balancer.values == [3.0, 3.0, 2.0]
    torch.testing.assert_close(balancer.given, together @ together.T)
    torch.testing.assert_close(update, 3 * second[2] + second[0] + 2 * first[1])


def test_what_the_step_says_is_of_the_tasks_that_are_there():
    balancer = Weighted(absent="last")
    step(balancer, dict(zip("abc", rows(0), strict=True)))
    step(balancer, {"b": rows(1)[0]})
    assert balancer.present == balancer.last.tasks == ("b",)
    assert balancer.last.weights == {"b": 2.0}
    torch.testing.assert_close(balancer.last.norms["b"], rows(1)[0].norm())
    assert balancer.losses is None


def test_a_task_that_was_never_there_is_skipped_and_by_default_all_absent_ones_are():
    first = rows(0)
    balancer = Weighted(absent="last")
    balancer.prepare(["a", "b", "c"])
    torch.testing.assert_close(step(balancer, {"a": first[0]}), first[0])
    assert balancer.tasks == ("a",)
    balancer = Weighted()
    step(balancer, {"a": first[0], "b": first[1]})
    torch.testing.assert_close(step(balancer, {"a": first[0]}), first[0])


@pytest.mark.parametrize("name", METHODS)
def test_for_every_method_it_is_a_step_with_all_tasks(name):
    """With the gradients of the absent as they were, the update is that of a step in which all are there."""
    whole, holed = make(name, absent="skip"), make(name)
    for balancer in (whole, holed):
        balancer.prepare(["a", "b", "c"])
    now = dict(zip("abc", rows(2), strict=True))
    for present in ("abc", "ab", "a", "ca"):
        now.update({task: rows(3 + len(present))["abc".index(task)] for task in present})
        order = [*present, *(task for task in "abc" if task not in present)]
        expected = step(whole, {task: now[task] for task in order})
        found = step(holed, {task: now[task] for task in present})
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), present=st.lists(st.sets(st.sampled_from("abc"), min_size=1), min_size=1, max_size=6))
def test_the_last_known_gradient_counts_however_tasks_come_and_go(seed, present):
    balancer = Weighted(absent="last")
    known = {}
    for number, tasks in enumerate(present):
        new = rows(seed + number)
        known.update({task: new["abc".index(task)] for task in tasks})
        update = step(balancer, {task: known[task] for task in sorted(tasks)})
        torch.testing.assert_close(update, sum((1.0 + "abc".index(task)) * row for task, row in known.items()))


def test_in_a_network_the_heads_of_absent_tasks_learn_nothing(network, inputs):
    balancer = make("upgrad")
    jacobian = network.jacobian(inputs)
    balancer.backward(network.losses(inputs), network.trunk.parameters())
    network.zero_grad()
    with torch.no_grad():
        network.heads["a"].weight.mul_(1.5)
    moved = network.jacobian(inputs)[0]
    loss = network.losses(inputs)["a"]
    (head,) = torch.autograd.grad(loss, [network.heads["a"].weight], retain_graph=True)
    balancer.backward({"a": loss}, network.trunk.parameters())
    expected = make("upgrad").combine(torch.stack([moved, jacobian[1], jacobian[2]]))
    torch.testing.assert_close(network.trunk_gradient(), expected)
    torch.testing.assert_close(network.heads["a"].weight.grad, head)
    assert network.heads["b"].weight.grad is None


@pytest.mark.parametrize(
    "options",
    [
        {"update": "backward"},
        {"memory_budget": 1e-5},
        {"weight_heads": True},
        {"clip_task_norm": 0.1},
        {"normalize": "sum_to_one"},
    ],
)
def test_it_goes_with_other_options(options, network, inputs):
    whole, holed = make("upgrad", absent="skip", **options), make("upgrad", **options)
    twin = copy.deepcopy(network)
    for balancer, n in ((whole, network), (holed, twin)):
        balancer.backward(n.losses(inputs), n.trunk.parameters())
        n.zero_grad()
    order = ["b", "c", "a"]
    losses = network.losses(inputs)
    whole.backward({task: losses[task] for task in order}, network.trunk.parameters())
    losses = twin.losses(inputs)
    holed.backward({task: losses[task] for task in order[:2]}, twin.trunk.parameters())
    torch.testing.assert_close(twin.trunk_gradient(), network.trunk_gradient())
    torch.testing.assert_close(twin.heads["b"].weight.grad, network.heads["b"].weight.grad)


def test_it_works_on_accumulated_gradients(network, inputs):
    plain, summed = make("upgrad"), make("upgrad")
    twin = copy.deepcopy(network)
    for tasks in ("abc", "ca"):
        network.zero_grad()
        twin.zero_grad()
        losses = network.losses(inputs)
        plain.backward({task: losses[task] for task in tasks}, network.trunk.parameters())
        total = GradientSum(twin.parameters(), tasks)
        for part in inputs.split(3):
            found = twin.losses(part)
            total.add({task: found[task] * (len(part) / 7) for task in tasks})
        summed.backward(total.losses(), twin.trunk.parameters())
        torch.testing.assert_close(twin.trunk_gradient(), network.trunk_gradient())


def test_logarithms_and_a_scaler_change_what_is_kept_as_they_change_the_step(network, inputs):
    plain, scaled = make("upgrad", log_losses=True), make("upgrad", log_losses=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for tasks in ("abc", "b"):
        updates = []
        for balancer, by in ((plain, None), (scaled, scaler)):
            network.zero_grad()
            losses = network.losses(inputs)
            balancer.backward({task: losses[task] for task in tasks}, network.trunk.parameters(), scaler=by)
            updates.append(network.trunk_gradient())
        torch.testing.assert_close(updates[1], 256 * updates[0])


def test_a_step_that_overflows_is_not_remembered(network, inputs):
    balancer = make("upgrad")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    jacobian = network.jacobian(inputs)
    losses = network.losses(inputs)
    balancer.backward({"a": losses["a"], "b": losses["b"]}, network.trunk.parameters(), scaler=scaler)
    for broken in ("a", "c"):
        losses = network.losses(inputs)
        balancer.backward({broken: losses[broken] * torch.inf}, network.trunk.parameters(), scaler=scaler)
        assert not network.trunk_gradient().isfinite().all()
    network.zero_grad()
    losses = network.losses(inputs)
    balancer.backward({"b": losses["b"]}, network.trunk.parameters(), scaler=scaler)
    torch.testing.assert_close(network.trunk_gradient(), 2 * make("upgrad").combine(jacobian[:2]))


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, steps):
        presents = ["abc", "a", "bc", "c", "ab", "b"]
        return [step(balancer, {t: rows(i)["abc".index(t)] for t in presents[i % 6]}) for i in steps]

    whole = train(make("nash_mtl"), range(9))
    first, second = make("nash_mtl"), make("nash_mtl")
    train(first, range(4))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for ours, expected in zip(train(second, range(4, 9)), whole[4:], strict=True):
        assert torch.equal(ours, expected)


def test_where_other_parameters_are_shared_what_was_kept_is_forgotten(network, inputs, caplog):
    balancer = make("upgrad")
    balancer.backward(network.losses(inputs), network.trunk.parameters())
    network.zero_grad()
    losses = network.losses(inputs)
    with caplog.at_level(logging.WARNING, "polytask"):
        balancer.backward({"a": losses["a"]}, network.trunk[2].parameters())
    assert "were 65 numbers so far, and are 35 now" in caplog.text
    alone = network.jacobian(inputs)[0, -35:]
    torch.testing.assert_close(network.trunk_gradient()[-35:], alone)


@pytest.mark.parametrize("shared", [None, []])
def test_the_shared_parameters_have_to_be_named(network, inputs, shared):
    with pytest.raises(UserError, match="absent='last' needs the shared parameters by name"):
        make("upgrad").backward(network.losses(inputs), shared)


@pytest.mark.parametrize("options", [{"every": 2}, {"on": "features"}, {"on": "last"}, {"batch_fraction": 0.5}])
def test_options_that_do_not_measure_everything_do_not_go_with_it(options):
    with pytest.raises(UserError, match=f"absent='last' measures the whole gradient.*{next(iter(options))}="):
        make("upgrad", **options)


def test_other_values_and_methods_without_a_gramian_are_refused():
    with pytest.raises(UserError, match="absent is 'zero', but must be 'skip' or 'last'"):
        make("upgrad", absent="zero")
    with pytest.raises(UserError, match="does not go with .*absent='last'"):
        make("mgda", matrix_free=True)
    with pytest.raises(UserError, match="leave out .*absent='last'"):
        make("modo")
