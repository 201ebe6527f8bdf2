import copy
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from polytask import balancing, sharing
from polytask.encoders.encoder import Encoder, Stage
from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.sharing.task_norm import with_modules

from ..encoders.cases import CASES, prepared
from .fitting import Data, Dense, error_of

TASKS = ["age", "type", "values"]
ROWS = {"age": torch.tensor([0, 1]), "type": torch.tensor([2, 3]), "values": torch.tensor([4, 5, 6, 7])}


def trunk_of(encoder, within="all", tasks=TASKS):
    return sharing.TaskNorm(within).build({"row": encoder}, tasks)


def moved(trunk):
    with torch.no_grad():
        for tensor in (*trunk.norms.parameters(), *trunk.norms.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return trunk


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Dense(4, 6, 5, norm=True)


def norms_of(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]


def test_each_task_runs_through_the_encoder_with_its_own_normalisation(encoder):
    single = copy.deepcopy(encoder).eval()
    trunk = moved(trunk_of(encoder)).eval()
    inputs = torch.randn(8, 4)
    found = trunk({"row": inputs}, TASKS, {}).features
    for task in TASKS:
        own = [norm for layers in trunk.norms.values() for norm in layers[task]]
        for norm, mine in zip(norms_of(single), own, strict=True):
            norm.load_state_dict(mine.state_dict())
        torch.testing.assert_close(found[task].values, single(inputs).values)
    assert not torch.allclose(found["age"].values, found["type"].values)


def test_in_training_each_task_is_normalised_by_its_own_rows(encoder):
    single = copy.deepcopy(encoder)
    trunk = trunk_of(encoder)
    inputs = torch.randn(8, 4)
    found = trunk({"row": inputs}, TASKS, ROWS).features
    for task in TASKS:
        torch.testing.assert_close(found[task].values, copy.deepcopy(single)(inputs[ROWS[task]]).values)
        mean, deviation = inputs[ROWS[task]].mean(0), inputs[ROWS[task]].std(0)
        norm = trunk.norms["layer1"][task][0]
        torch.testing.assert_close(norm.running_mean, 0.1 * mean)
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * deviation.square())
    trunk({"row": inputs}, ["age"], ROWS)
    assert [int(trunk.norms["layer1"][task][0].num_batches_tracked) for task in TASKS] == [2, 1, 1]


@pytest.mark.parametrize("count", [1, 3])
def test_a_task_costs_a_copy_of_the_normalisations(encoder, count):
    weights = 4 * 6 + 6 + 6 * 5 + 5
    trunk = trunk_of(encoder, tasks=TASKS[:count])
    assert sum(p.numel() for p in trunk.parameters()) == weights + count * 2 * (4 + 6)
    assert sum(p.numel() for p in trunk.shared_parameters()) == (weights if count > 1 else 0)


def test_some_stages_alone_can_be_the_tasks_own(encoder):
    trunk = trunk_of(encoder, ["layer2"])
    calls = []
    for name, stage in encoder.stages.items():
        stage.register_forward_hook(lambda _, given, found, name=name: calls.append((name, len(found.values))))
    trunk({"row": torch.randn(8, 4)}, TASKS, ROWS)
    assert calls == [("embed", 8), ("layer1", 8), ("layer2", 2), ("layer2", 2), ("layer2", 4)]
    assert sum(p.numel() for p in trunk.shared_parameters()) == 4 * 6 + 6 + 6 * 5 + 5 + 2 * 4


@pytest.mark.parametrize("name", ["cnn", "cnn-hidden", "tabular_resnet-layer", "timm-sequence", "auto_model-albert"])
def test_the_start_is_the_encoder_for_every_kind_of_normalisation(name):
    case = prepared(CASES[name])
    expected = case.build().eval()(case.inputs()).values
    trunk = sharing.TaskNorm().build({"x": case.build()}, TASKS).eval()
    for features in trunk({"x": case.inputs()}, TASKS, {}).features.values():
        torch.testing.assert_close(features.values, expected)
    left = [m for m in trunk.shared.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d)]
    assert not left


class OwnNorm(nn.Module):
    """As transformers writes them."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, values):
        return values * values.square().mean(-1, keepdim=True).rsqrt() * self.weight


class Odd(Encoder):
    """One layer at two places, a normalisation without anything to learn, and a reader of a layer's attributes."""

    modality = "tabular"

    def __init__(self):
        norm = OwnNorm(4)
        first = nn.Sequential(nn.Linear(4, 4), norm, nn.ReLU(), norm, nn.LayerNorm(4, elementwise_affine=False))
        super().__init__(
            {
                "first": Stage(first, FeatureShape("vector", 4)),
                "second": Stage(_Reads(), FeatureShape("vector", 4)),
            }
        )


class _Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(4)

    def forward(self, values):
        return values * self.norm.weight


def test_layers_of_other_libraries_and_layers_at_two_places_are_found():
    odd = Odd()
    trunk = trunk_of(odd)
    assert {stage: len(norms["age"]) for stage, norms in trunk.norms.items()} == {"first": 1, "second": 1}
    with torch.no_grad():
        trunk.norms["first"]["age"][0].weight.mul_(3.0)
        trunk.norms["second"]["age"][0].weight.mul_(2.0)
    found = trunk({"row": torch.randn(8, 4)}, TASKS, {}).features
    # The last normalisation takes back what a factor does before it.
    torch.testing.assert_close(found["age"].values, 2 * found["type"].values, rtol=1e-3, atol=1e-3)


def test_a_view_has_the_modules_own_parameters_and_leaves_it_alone():
    inner = nn.Sequential(nn.Linear(3, 3), nn.Identity())
    module = nn.Sequential(inner, nn.Linear(3, 2), nn.Identity())
    names = [name for name, _ in module.named_modules()]
    other, last = nn.BatchNorm1d(3), nn.BatchNorm1d(2)
    calls = []
    inner.register_forward_hook(lambda *_: calls.append("inner"))
    module.eval()
    view = with_modules(module, {"0.1": other, "2": last})
    assert view[0][1] is other
    assert view[2] is last
    assert view[1] is module[1]
    assert view[0][0] is inner[0]
    assert not view.training
    assert not view[0].training
    view(torch.randn(2, 3))
    assert calls == ["inner"]
    assert [name for name, _ in module.named_modules()] == names
    assert isinstance(module[0][1], nn.Identity)
    assert isinstance(module[2], nn.Identity)


class Recomputed(Stage):
    """Forgets its activations and computes them again in the backward pass."""

    def forward(self, features):
        return features._replace(values=checkpoint(self.module, features.values, use_reentrant=False))


def test_a_checkpointed_stage_is_recomputed_with_the_right_tasks_layers():
    def gradients(kind):
        torch.manual_seed(0)
        network = Dense(4, 6, 5, norm=True)
        for name in ("layer1", "layer2"):
            network.stages.set_submodule(name, kind(network.stages[name].module, network.stages[name].shape))
        trunk = moved(trunk_of(network)).eval()
        found = trunk({"row": inputs}, TASKS, {}).features
        sum(weight * found[task].values.square().sum() for weight, task in enumerate(TASKS, start=1)).backward()
        return {name: parameter.grad for name, parameter in trunk.named_parameters()}

    inputs = torch.randn(8, 4)
    torch.testing.assert_close(gradients(Recomputed), gradients(Stage))


def test_threads_do_not_meet(encoder):
    trunk = moved(trunk_of(encoder)).eval()
    inputs = torch.randn(64, 4)
    with torch.no_grad():
        expected = trunk({"row": inputs}, TASKS, {}).features
    wrong = []

    def work(task):
        with torch.no_grad():
            for _ in range(100):
                found = trunk({"row": inputs}, [task], {}).features[task].values
                if not torch.equal(found, expected[task].values):
                    wrong.append(task)

    threads = [threading.Thread(target=work, args=(task,)) for task in TASKS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_state_and_copies_are_complete(encoder):
    trunk = moved(trunk_of(copy.deepcopy(encoder))).eval()
    again = trunk_of(encoder).eval()
    again.load_state_dict(trunk.state_dict())
    inputs = torch.randn(8, 4)
    expected, copied = trunk({"row": inputs}, TASKS, {}).features, copy.deepcopy(trunk)
    torch.testing.assert_close(again({"row": inputs}, TASKS, {}).features, expected)
    torch.testing.assert_close(copied({"row": inputs}, TASKS, {}).features, expected)
    with torch.no_grad():
        copied.norms["layer1"]["age"][0].weight.add_(1.0)
    torch.testing.assert_close(trunk({"row": inputs}, TASKS, {}).features, expected)
    assert not torch.allclose(copied({"row": inputs}, TASKS, {}).features["age"].values, expected["age"].values)


def test_a_frozen_stage_keeps_the_tasks_statistics(encoder):
    trunk = trunk_of(encoder)
    for depth, _, module in trunk.stages():
        if depth <= 1:
            module.requires_grad_(False).train(False)
    before = copy.deepcopy(trunk.state_dict())
    trunk({"row": torch.randn(8, 4)}, TASKS, ROWS)
    changed = {name for name, value in trunk.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".layer2." in name for name in changed)


@pytest.mark.parametrize("method", ["upgrad", "graddrop", "mgda"])
def test_gradient_methods_work(encoder, method):
    trunk = moved(trunk_of(encoder)).double()
    found = trunk({"row": torch.randn(8, 4).double()}, TASKS, ROWS).features
    losses = {task: features.values.square().mean() for task, features in found.items()}
    shared = trunk.shared_parameters()
    rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses.values()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    torch.testing.assert_close(balancing.gramian(losses, shared), jacobian @ jacobian.T)
    balancing.create(method).backward(losses, shared)
    assert all(parameter.grad.isfinite().all() for parameter in trunk.parameters())


def _domains(rows_each, seed):
    """Four sources of the same kind of rows, each in units of its own."""
    rules = torch.Generator().manual_seed(0)
    places, units = 2 * torch.randn(4, 5, generator=rules), torch.randn(4, 5, generator=rules).exp()
    first, second = torch.randn(2, 5, generator=rules)
    plain = torch.randn(4 * rows_each, 5, generator=torch.Generator().manual_seed(seed))
    target = torch.tanh(plain @ first) + (plain @ second).abs()
    rows = {f"source{k}": torch.arange(k * rows_each, (k + 1) * rows_each) for k in range(4)}
    inputs = torch.cat([places[k] + units[k] * plain[each] for k, each in enumerate(rows.values())])
    return Data(inputs, {source: target[each] for source, each in rows.items()}, rows)


def test_tasks_with_rows_from_different_sources_gain():
    train, test = _domains(48, seed=1), _domains(250, seed=101)
    own, hard, separate = (
        error_of(scheme, (5, 32, 32), train, test, steps=150, norm=True)
        for scheme in (sharing.TaskNorm(), sharing.Hard(), sharing.Hard(0))
    )
    assert own < 0.5 * hard
    assert own < 0.75 * separate


@pytest.mark.parametrize("name", ["mlp", "bag", "bigru", "text_cnn", "cnn-none"])
def test_an_encoder_without_normalisation_is_refused_by_name(name):
    encoder = CASES[name].build()
    message = f"task_norm: the encoder {type(encoder).__name__} has no normalisation layer that.*Choose an encoder with"
    with pytest.raises(UserError, match=message):
        trunk_of(encoder)


@pytest.mark.parametrize(
    ("within", "message"),
    [
        ("layer1", r"task_norm: within must be 'all' or a list of stages, such as \[layer1\]"),
        ([], "task_norm: within names no stage"),
        (["layer3"], r"no stage 'layer3'.*Did you mean"),
        (["embed"], "task_norm: the encoder Dense has no normalisation layer in 'embed'"),
        (
            ["embed", "layer1"],
            "'within' names 'embed', but .* Dense has no .* there. Stages that have: 'layer1', 'layer2'",
        ),
    ],
)
def test_what_is_no_choice_of_stages_is_refused(encoder, within, message):
    with pytest.raises(UserError, match=message):
        trunk_of(encoder, within)
