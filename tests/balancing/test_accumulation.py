import copy
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask import balancing
from polytask.balancing import GradientSum
from polytask.errors import UserError

TASKS = ("a", "b", "c")
SCORES = {task: balancing.Score(value, True, value) for task, value in zip(TASKS, (0.2, 0.5, 0.7), strict=True)}
PARAMETERS = {
    "static": {"weights": {"a": 1.0, "b": 0.5, "c": 2.0}},
    "pivrg": {"references": {"a": 1.0, "b": 0.5, "c": 0.3}},
    "gradient_cosine": {"main": "a"},
    "ol_aux": {"main": "a", "horizon": 2},
    "meta_balance": {"main": "a"},
    "annealed": {"main": "a", "steps": 3},
    "auto_lambda": {"main": "a"},
}
PARTS = ((0, 3), (3, 4), (4, 7))


def make(name, **options):
    return balancing.create(name, **PARAMETERS.get(name, {}), **options)


def summed(network, parts, total, tasks=TASKS, **options):
    """The sums over some parts of a batch, each with its share of the rows."""
    found = GradientSum(network.parameters(), tasks, **options)
    for part in parts:
        found.add({task: loss * (len(part) / total) for task, loss in network.losses(part).items() if task in tasks})
    return found


def whole_losses(balancer, network, inputs):
    if balancer.batches == 1:
        return network.losses(inputs)
    return [network.losses(inputs + 0.1 * i) for i in range(balancer.batches)]


def summed_losses(balancer, network, inputs, **options):
    found = [
        summed(network, [(inputs + 0.1 * i)[start:end] for start, end in PARTS], len(inputs), **options).losses()
        for i in range(balancer.batches)
    ]
    return found[0] if balancer.batches == 1 else found


def gradients(network):
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in network.parameters()]
    )


def compared_steps(balancer, network, inputs, steps=3, tolerance=1e-10, **options):
    """Train with whole batches and with micro-batches side by side; the gradients and weights are to be the same."""
    other, twin = copy.deepcopy(balancer), copy.deepcopy(network)
    for b in (balancer, other):
        b.prepare(TASKS)
    for step in range(steps):
        batch = inputs + 0.05 * step
        for b, n, losses_of in ((balancer, network, whole_losses), (other, twin, summed_losses)):
            n.zero_grad()
            b.backward(losses_of(b, n, batch, **(options if n is twin else {})), n.trunk.parameters())
        expected, found = gradients(network), gradients(twin)
        assert expected.norm() > 0
        assert (found - expected).norm() <= tolerance * expected.norm()
        torch.testing.assert_close(other.last.loss_values, balancer.last.loss_values, rtol=tolerance, atol=tolerance)
        if balancer.last.weight_values is not None:
            size = balancer.last.weight_values.norm()
            assert (other.last.weight_values - balancer.last.weight_values).norm() <= 10 * tolerance * size
        for n in (network, twin):
            with torch.no_grad():
                for parameter in n.parameters():
                    parameter.sub_(0.02 / (1 + expected.norm().item()) * parameter.grad)
        for b in (balancer, other):
            b.epoch_end(SCORES)


@pytest.mark.parametrize("name", balancing.names())
def test_micro_batches_are_one_large_batch_for_every_method(name, network, inputs):
    compared_steps(make(name), network, inputs)


@pytest.mark.parametrize("name", balancing.names())
def test_they_are_in_single_precision_too(name, network, inputs):
    compared_steps(make(name), network.float(), inputs.float(), steps=1, tolerance=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("upgrad", {"update": "backward"}),
        ("upgrad", {"on": "last"}),
        ("upgrad", {"every": 2}),
        ("upgrad", {"memory_budget": 1e-5}),
        ("nash_mtl", {"clip_task_norm": 0.5, "weight_heads": True, "smoothing": 0.5}),
        ("nash_mtl", {"log_losses": True}),
        ("mgda", {"matrix_free": True}),
        ("cagrad", {"matrix_free": True}),
        ("sdmgrad", {"matrix_free": True}),
        ("static", {"normalize": "sum_to_one", "smoothing": 0.5, "log_losses": True}),
        ("graddrop", {"log_losses": True}),
    ],
)
def test_options_work_on_them(name, options, network, inputs):
    compared_steps(make(name, **options), network, inputs)


def test_weights_from_a_part_of_the_batch_need_the_losses_on_it(network, inputs):
    balancer, twin = make("upgrad", batch_fraction=0.5), copy.deepcopy(network)
    balancer.backward(network.losses(inputs), network.trunk.parameters(), probe=network.losses(inputs[:3]))
    total = summed(twin, [inputs[:3], inputs[3:]], 7)
    balancer.backward(total.losses(), twin.trunk.parameters(), probe=twin.losses(inputs[:3]))
    torch.testing.assert_close(gradients(twin), gradients(network))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    name=st.sampled_from(["equal", "uncertainty", "upgrad", "imtl_g", "db_mtl"]),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    missing=st.floats(0, 0.8),
)
def test_any_division_with_any_labels_missing_gives_the_mean_over_labelled_samples(seed, name, sizes, missing):
    generator = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    x = torch.randn(rows, 4, dtype=torch.float64, generator=generator)
    labelled = {task: torch.rand(rows, generator=generator) >= missing for task in TASKS}
    labelled["a"][0] = labelled["b"][-1] = True
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(4, 5), nn.Tanh()).double()
    heads = nn.ModuleDict({task: nn.Linear(5, 1) for task in TASKS}).double()
    parameters = [*trunk.parameters(), *heads.parameters()]

    def losses(part):
        features = trunk(x[part])
        return {
            task: (heads[task](features)[mask].square() + 0.1).sum() / labelled[task].sum()
            for task in TASKS
            if (mask := labelled[task][part]).any()
        }

    found = []
    for divided in (False, True):
        for parameter in parameters:
            parameter.grad = None
        if divided:
            total = GradientSum(parameters, TASKS)
            for part in torch.arange(rows).split(sizes):
                total.add(losses(part))
            given_losses = total.losses()
        else:
            given_losses = losses(torch.arange(rows))
        make(name).backward(given_losses, list(trunk.parameters()))
        found.append([None if p.grad is None else p.grad for p in parameters])
    for whole, parts in zip(*found, strict=True):
        assert (whole is None) == (parts is None)
        if whole is not None:
            torch.testing.assert_close(parts, whole, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["equal", "upgrad", "graddrop", "gradnorm"])
def test_one_task_alone_is_plain_accumulation(name, make_network, inputs):
    network = make_network("only")
    balancer = make(name)
    total = summed(network, inputs.split(2), 7, ("only",), shared=network.trunk.parameters())
    balancer.backward(total.losses(), network.trunk.parameters())
    found = gradients(network)
    network.zero_grad()
    network.losses(inputs)["only"].backward()
    torch.testing.assert_close(found, gradients(network))


def test_a_task_can_be_absent_from_micro_batches_and_from_the_step(network, inputs):
    total = GradientSum(network.parameters(), TASKS)
    first, second = network.losses(inputs[:3]), network.losses(inputs[3:])
    total.add({"c": first["c"], "a": first["a"]})
    total.add({})
    total.add({"a": second["a"]})
    losses = total.losses()
    assert list(losses) == ["a", "c"]
    assert losses["a"].item() == pytest.approx((first["a"] + second["a"]).item())
    make("upgrad").backward(losses, network.trunk.parameters())
    assert network.heads["b"].weight.grad is None
    jacobian = torch.stack(
        [network.jacobian(inputs[:3])[0] + network.jacobian(inputs[3:])[0], network.jacobian(inputs[:3])[2]]
    )
    torch.testing.assert_close(network.trunk_gradient(), make("upgrad").combine(jacobian))
    torch.testing.assert_close(total.gradient("c", list(network.trunk.parameters())), jacobian[1])


def test_a_loss_without_a_gradient_counts_with_its_value(network, inputs):
    total = GradientSum(network.parameters(), TASKS)
    total.add({"a": network.losses(inputs)["a"], "b": torch.tensor(2.0)})
    losses = total.losses()
    assert (losses["b"].item(), losses["b"].requires_grad) == (2.0, False)


@pytest.mark.parametrize("name", ["equal", "upgrad", "graddrop", "uncertainty"])
def test_with_a_scaler_the_sums_are_not_scaled_and_the_gradients_are(name, network, inputs):
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    total = GradientSum(network.parameters(), TASKS)
    total.add(network.losses(inputs), scaler)
    torch.testing.assert_close(total.gradient("b", list(network.trunk.parameters())), network.jacobian(inputs)[1])
    make(name).backward(total.losses(), network.trunk.parameters(), scaler=scaler)
    found = gradients(network)
    network.zero_grad()
    make(name).backward(network.losses(inputs), network.trunk.parameters())
    torch.testing.assert_close(found, 256 * gradients(network))


@pytest.mark.parametrize("name", ["equal", "upgrad", "graddrop"])
def test_a_step_that_overflows_in_float16_is_left_to_the_scaler(name, network, inputs):
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = network.trunk[0].weight.detach().clone()
    total = GradientSum(network.parameters(), TASKS)
    losses = network.losses(inputs)
    total.add({**losses, "a": losses["a"] * torch.inf}, scaler)
    total.add(network.losses(inputs), scaler)
    make(name).backward(total.losses(), network.trunk.parameters(), scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 128
    assert torch.equal(network.trunk[0].weight, before)


def test_without_a_scaler_what_is_not_finite_is_named(network, inputs):
    total = GradientSum(network.parameters(), TASKS)
    losses = network.losses(inputs)
    total.add({**losses, "b": losses["b"] * torch.nan})
    total.add(network.losses(inputs))
    with pytest.raises(UserError, match="gradient of task 'b' is not finite"):
        make("upgrad").backward(total.losses(), network.trunk.parameters())


def test_autocast_makes_gradients_in_half_precision_that_are_added_up_in_single(network, inputs):
    network.float()
    total = GradientSum(network.parameters(), TASKS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for part in inputs.float().split(3):
            total.add({task: loss * (len(part) / 7) for task, loss in network.losses(part).items()})
    make("upgrad").backward(total.losses(), network.trunk.parameters())
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
    found = network.trunk_gradient()
    network.zero_grad()
    make("upgrad").backward(network.losses(inputs.float()), network.trunk.parameters())
    assert (found - network.trunk_gradient()).norm() < 0.05 * found.norm()


def test_gradients_of_half_precision_parameters_are_added_up_in_single():
    weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    total = GradientSum([weight], ["a"])
    for value in [1.0] + [2**-9] * 8:
        total.add({"a": (weight.float() * value).sum()})
    assert total.gradient("a", [weight]).item() == 1 + 8 * 2**-9
    total.losses()["a"].backward()
    assert weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["equal", "upgrad", "imtl"])
def test_sparse_gradients_stay_sparse_until_they_meet_a_dense_one(name):
    table = nn.Embedding(6, 3, sparse=True)
    head = nn.Linear(3, 1)
    parameters = [*table.parameters(), *head.parameters()]

    def losses(rows):
        features = head(table(rows))
        return {"a": features.square().sum(), "b": (features - 1).square().sum()}

    results = []
    for parts in ([torch.tensor([0, 2, 2, 4])], [torch.tensor([0, 2]), torch.tensor([2, 4])]):
        table.weight.grad = None
        total = GradientSum(parameters, ["a", "b"])
        for part in parts:
            total.add(losses(part))
        make(name).backward(total.losses(), parameters)
        assert table.weight.grad.is_sparse
        results.append(table.weight.grad.to_dense())
    torch.testing.assert_close(*results)
    total.add({"a": table.weight.square().sum()})
    total.losses()["a"].backward()
    assert not table.weight.grad.is_sparse


def test_tied_and_frozen_parameters_and_those_of_one_task():
    tied, frozen, own, unused = (nn.Parameter(torch.tensor([v])) for v in (1.0, 2.0, 3.0, 4.0))
    frozen.requires_grad_(False)
    total = GradientSum([tied, frozen, tied, own, unused], ["a", "b"])
    for value in (1.0, 2.0):
        total.add({"a": (tied * tied * value * frozen).sum(), "b": (tied * own * value).sum()})
    make("equal").backward(total.losses())
    assert (tied.grad.item(), own.grad.item()) == (3 * (2 * 2 + 3), 3.0)
    assert frozen.grad is None
    assert unused.grad is None


def test_the_last_layer_is_that_of_the_micro_batches_with_several_tasks(network, inputs):
    """A micro-batch with one task alone cannot tell where the heads begin."""
    found, expected = make("gradnorm"), make("gradnorm")
    expected.backward(
        {task: loss * (2 if task == "a" else 1) for task, loss in network.losses(inputs).items()},
        network.trunk.parameters(),
    )
    total = GradientSum(network.parameters(), TASKS, shared=network.trunk.parameters())
    total.add({"a": network.losses(inputs)["a"]})
    total.add(network.losses(inputs))
    found.backward(total.losses(), network.trunk.parameters())
    torch.testing.assert_close(found.last.gramian, expected.last.gramian)


def test_what_cannot_work_without_a_network_is_refused(network, inputs):
    losses = summed(network, [inputs], 7).losses()
    with pytest.raises(UserError, match=r"on='features' needs the features.*gradients that were added up"):
        make("upgrad", on="features").backward(losses, network.trunk.parameters())
    alone = GradientSum(network.parameters(), TASKS)
    for task in TASKS:
        alone.add({task: network.losses(inputs)[task]})
    with pytest.raises(UserError, match=r"on='last' with accumulated gradients needs.*shared="):
        make("upgrad", on="last").backward(alone.losses(), network.trunk.parameters())


def test_a_graph_is_used_up(network, inputs):
    losses = network.losses(inputs)
    total = GradientSum(network.parameters(), TASKS)
    total.add(losses)
    with pytest.raises(UserError, match="used up by an earlier backward pass"):
        total.add(losses)


def test_what_is_wrong_with_an_addition_is_said(network, inputs):
    losses = network.losses(inputs)
    with pytest.raises(UserError, match=r"a loss for 'a', which is no task.*The tasks: 'b', 'c'"):
        GradientSum(network.parameters(), ["b", "c"]).add(losses)
    with pytest.raises(UserError, match=r"task 'a' is a tensor of shape \(2,\)"):
        GradientSum(network.parameters(), TASKS).add({"a": torch.ones(2)})
    for parameters, whose in ((network.trunk, "task 'a'"), (network.heads, "several tasks")):
        with pytest.raises(UserError, match=f"loss of {whose} depends on a parameter of shape .* was not given"):
            GradientSum(parameters.parameters(), TASKS).add(losses)
    with pytest.raises(UserError, match="got no parameters"):
        GradientSum([], TASKS)
    network.trunk[0].bias.register_hook(lambda gradient: gradient)
    with pytest.raises(UserError, match="has a hook on its gradient"):
        GradientSum(network.parameters(), TASKS).add(losses)


def test_sums_that_are_complete_take_no_more(network, inputs):
    total = summed(network, [inputs], 7)
    total.reduce()
    with pytest.raises(UserError, match="complete after reduce"):
        total.add(network.losses(inputs))


def test_several_processes_have_to_exchange_their_sums(network, inputs, monkeypatch):
    total = summed(network, [inputs], 7)
    stand_ins = total.losses()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="Call reduce"):
        total.losses()
    for name in ("upgrad", "graddrop"):
        make(name).backward(stand_ins, network.trunk.parameters())
        with pytest.raises(UserError, match="do not exchange by themselves"):
            make(name).backward({**stand_ins, "d": network.losses(inputs)["a"]}, network.trunk.parameters())


@pytest.mark.parametrize(
    ("name", "options", "additive"),
    [
        ("equal", {}, True),
        ("static", {}, True),
        ("equal", {"normalize": "sum_to_one"}, False),
        ("equal", {"smoothing": 0.5}, False),
        ("static", {"log_losses": True}, False),
        ("dwa", {}, False),
        ("upgrad", {}, False),
        ("graddrop", {}, False),
        ("annealed", {}, False),
    ],
)
def test_a_method_says_whether_micro_batches_can_simply_be_passed_backward(name, options, additive):
    assert make(name, **options).additive is additive


def test_only_fixed_weights_are_additive():
    assert [name for name in balancing.names() if make(name).additive] == ["equal", "static"]


@pytest.mark.parametrize(
    "balancer",
    [make("equal"), make("static"), balancing.Annealed("a", start=0.5, epochs=3)],
    ids=lambda b: type(b).__name__,
)
def test_where_a_method_is_additive_micro_batches_add_up(balancer, network, inputs):
    assert balancer.additive
    balancer.backward(network.losses(inputs), network.trunk.parameters())
    expected = gradients(network)
    network.zero_grad()
    for start, end in PARTS:
        part = inputs[start:end]
        losses = {task: loss * (len(part) / 7) for task, loss in network.losses(part).items()}
        balancer.backward(losses, network.trunk.parameters())
    torch.testing.assert_close(gradients(network), expected)


PROCESS = """
import sys
import torch
from torch import nn
from polytask import balancing

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
tasks = ["a", "b", "c", "d"]
table = nn.Embedding(5, 4, sparse=True).double()
trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in tasks}).double()
parameters = [*table.parameters(), *trunk.parameters(), *heads.parameters()]
shared = [*table.parameters(), *trunk.parameters()]
# The second process has neither 'b' nor 'd', the first has no 'c'; nobody has 'd'.
rows = [torch.tensor([0, 1, 3]), torch.tensor([1, 4])]
present = [["a", "b"], ["c", "a"]]

def losses(chosen):
    features = trunk(table(rows[chosen]))
    return {task: (heads[task](features) - i).square().mean() for i, task in enumerate(present[chosen])}

results = {}
for name, options in (("upgrad", {}), ("gradnorm", {}), ("db_mtl", {}), ("uncertainty", {"lr": 0.1})):
    found = []
    for chosen in ([rank], [0, 1]):
        balancer = balancing.create(name, **options)
        for parameter in parameters:
            parameter.grad = None
        total = balancing.GradientSum(parameters, tasks, shared=shared)
        for each in chosen:
            total.add(losses(each))
        if len(chosen) == 1:
            total.reduce()
            total.reduce()
        else:
            # What one process would do.
            total._reduced = True
        balancer.backward(total.losses(), shared)
        found.append([None if p.grad is None else p.grad.to_dense() for p in parameters])
        assert name == "db_mtl" or table.weight.grad.is_sparse
    results[name] = found
    for ours, alone in zip(*found, strict=True):
        assert (ours is None) == (alone is None)
        if ours is not None:
            torch.testing.assert_close(ours, alone, rtol=1e-9, atol=1e-12)

# A step in which one process has nothing at all.
total = balancing.GradientSum(parameters, tasks)
total.add(losses(0) if rank == 0 else {})
try:
    total.losses()
except balancing.balancer.UserError:
    pass
else:
    raise AssertionError("not refused")
total.reduce()
assert list(total.losses()) == ["a", "b"]
balancing.create("upgrad").backward(total.losses(), shared)
torch.save(results, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
print("done")
"""


def test_processes_add_up_what_each_has_and_all_do_the_same(tmp_path):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROCESS), str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == "done"
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, (ours, _) in one.items():
        for a, b in zip(ours, two[name][0], strict=True):
            assert a is None or torch.equal(a, b)
