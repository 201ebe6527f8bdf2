"""Adapters: task weights added to a shared network; `test_task_weights.py` has the changes of single weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask import sharing
from polytask.encoders.encoder import Encoder, Stage
from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.model import MultiTaskModel
from polytask.sharing import Adapters
from polytask.tasks import Regression
from polytask.training.transfer import Transfer

from ..encoders.cases import CASES
from .schemes import ENCODERS, case_of

TASKS = ("age", "type", "values")
KINDS = ("lora", "houlsby", "film", "bitfit")
SMALL = [name for name in ENCODERS if name not in ("resnet", "vgg", "timm-transformer")]

kinds = pytest.mark.parametrize("kind", KINDS)


def trunk_of(encoder, tasks=TASKS, **parameters):
    return Adapters(**parameters).build({"row": encoder}, tasks)


def at_random(trunk):
    """The same trunk, with adapters that change something."""
    with torch.no_grad():
        for parameter in trunk.adapters.parameters():
            parameter.normal_()
    return trunk


def features_of(trunk, inputs, rows=None, tasks=TASKS):
    return {task: found.values for task, found in trunk({"row": inputs}, tasks, rows or {}).features.items()}


def count(trunk):
    return sum(parameter.numel() for parameter in trunk.adapters.parameters())


# -- formulas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", ["frozen", "trained"])
@pytest.mark.parametrize("rows", [2, 50])
def test_lora_is_a_product_of_two_small_matrices_added_to_each_weight(encoder, trunk, rows):
    made = at_random(trunk_of(encoder, rank=2, alpha=3.0, trunk=trunk))
    inputs = torch.randn(rows, 4)
    for task, found in features_of(made, inputs).items():
        expected = inputs
        for stage in ("bottom", "middle", "top"):
            linear, own = encoder.stages[stage].module[0], made.adapters[stage][task].changes["module/0/weight"]
            assert own.down.shape == (2, linear.in_features)
            assert own.up.shape == (linear.out_features, 2)
            expected = torch.tanh(expected @ (linear.weight + 1.5 * own.up @ own.down).T + linear.bias)
        torch.testing.assert_close(found, expected)


def test_houlsby_adds_a_bottleneck_behind_each_stage(encoder):
    made = at_random(trunk_of(encoder, kind="houlsby", rank=3))
    inputs = torch.randn(5, 4)
    for task, found in features_of(made, inputs).items():
        expected = inputs
        for stage in ("bottom", "middle", "top"):
            expected, own = encoder.stages[stage].module(expected), made.adapters[stage][task]
            units = F.gelu(expected @ own.down.weight.T + own.down.bias)
            expected = expected + units @ own.up.weight.T + own.up.bias
        torch.testing.assert_close(found, expected)


def test_film_scales_and_shifts_each_feature_behind_each_stage(encoder):
    made = at_random(trunk_of(encoder, kind="film"))
    inputs = torch.randn(5, 4)
    for task, found in features_of(made, inputs).items():
        expected = inputs
        for stage in ("bottom", "middle", "top"):
            expected, own = encoder.stages[stage].module(expected), made.adapters[stage][task]
            expected = (1 + own.scale) * expected + own.shift
        torch.testing.assert_close(found, expected)


def test_bitfit_adds_to_each_bias(encoder):
    made = at_random(trunk_of(encoder, kind="bitfit"))
    inputs = torch.randn(5, 4)
    for task, found in features_of(made, inputs).items():
        expected = inputs
        for stage in ("bottom", "middle", "top"):
            linear, own = encoder.stages[stage].module[0], made.adapters[stage][task].changes["module/0/bias"]
            expected = torch.tanh(expected @ linear.weight.T + linear.bias + own.offset)
        torch.testing.assert_close(found, expected)


def test_dropout_in_a_bottleneck_is_of_the_units_between(encoder):
    made = at_random(trunk_of(encoder, kind="houlsby", rank=3, dropout=0.5, layers=["top"]))
    own = made.adapters["top"]["age"]
    values = torch.randn(6, 3)
    torch.manual_seed(7)
    found = own(values)
    torch.manual_seed(7)
    torch.testing.assert_close(found, values + own.up(F.dropout(F.gelu(own.down(values)), 0.5)))
    torch.testing.assert_close(own.eval()(values), values + own.up(F.gelu(own.down(values))))


@pytest.mark.parametrize("encoder", SMALL)
@kinds
def test_every_kind_starts_as_the_shared_network(kind, encoder):
    if kind == "bitfit" and encoder in ("bag", "bag-weighted"):
        return
    case = case_of(encoder)
    built = case.build().eval()
    with torch.no_grad():
        expected = built(case.inputs()).values
        trunk = trunk_of(built, kind=kind, embeddings=kind == "lora").eval()
        for found in features_of(trunk, case.inputs()).values():
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# -- numbers of parameters ----------------------------------------------------------------------------------------

SIZES = [(4, 6), (6, 5), (5, 3)]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"kind": "lora", "rank": 2}, sum(2 * (i + o) for i, o in SIZES)),
        ({"kind": "lora", "rank": 7, "layers": [2]}, 7 * (6 + 5)),
        ({"kind": "houlsby", "rank": 2}, sum(2 * 2 * o + 2 + o for _, o in SIZES)),
        ({"kind": "houlsby", "rank": 7, "layers": ["top", -2]}, sum(2 * 7 * o + 7 + o for o in (5, 3))),
        ({"kind": "film"}, sum(2 * o for _, o in SIZES)),
        ({"kind": "bitfit"}, sum(o for _, o in SIZES)),
    ],
)
def test_each_task_adds_as_many_parameters_as_the_formula_says(encoder, parameters, expected):
    trunk = trunk_of(encoder, **parameters)
    assert count(trunk) == len(TASKS) * expected
    assert sum(p.numel() for p in trunk.shared.parameters()) == sum(i * o + o for i, o in SIZES)
    own = [part for part in trunk.parts() if part.tasks == ("type",)]
    assert sum(p.numel() for part in own for p in part.module.parameters()) == expected
    assert {part.name.partition(" at ")[0] for part in own} == {parameters["kind"]}


def width_of(name, kind, **parameters):
    trunk = trunk_of(case_of(name).build(), kind=kind, **parameters)
    return count(trunk) / len(TASKS)


def test_every_layer_with_a_weight_or_bias_is_counted():
    # cnn: 1 -> 4 -> 8 -> 8 channels, 3 x 3, with batch normalisation instead of biases.
    assert width_of("cnn", "lora", rank=3) == 3 * (9 + 4 + 36 + 8 + 72 + 8)
    assert width_of("cnn", "bitfit") == 4 + 8 + 8
    # bigru: 6 -> 5 and 10 -> 5, both directions, three gates.
    assert width_of("bigru", "lora", rank=3) == 3 * 2 * ((15 + 6) + (15 + 5) + (15 + 10) + (15 + 5))
    assert width_of("bigru", "bitfit") == 2 * 2 * 2 * 15
    # transformer: width 8, queries, keys and values in one map, feed-forward 32, two blocks; a last normalisation.
    assert width_of("transformer", "lora", rank=3) == 3 * 2 * ((8 + 24) + (8 + 8) + (8 + 32) + (32 + 8))
    assert width_of("transformer", "bitfit") == 2 * (24 + 8 + 32 + 8 + 8 + 8) + 8
    # bag: 50 words of 8 features.
    assert width_of("bag", "lora", rank=3, embeddings=True) == 3 * (50 + 8)
    # text_cnn: 6 -> 4 in windows of 3, 4 and 5 words.
    assert width_of("text_cnn", "lora", rank=3) == 3 * sum(6 * window + 4 for window in (3, 4, 5))


# -- what runs when -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "layers", "expected"),
    [
        ("lora", "all", {"bottom": [2, 2, 5], "middle": [2, 2, 5], "top": [2, 2, 5]}),
        ("lora", ["middle"], {"bottom": [5], "middle": [2, 2, 5], "top": [2, 2, 5]}),
        ("bitfit", [-1], {"bottom": [5], "middle": [5], "top": [2, 2, 5]}),
        ("houlsby", "all", {"bottom": [5], "middle": [2, 2, 5], "top": [2, 2, 5]}),
        ("film", [2], {"bottom": [5], "middle": [5], "top": [2, 2, 5]}),
        ("film", ["top"], {"bottom": [5], "middle": [5], "top": [5]}),
    ],
)
def test_stages_run_once_up_to_the_first_adapter_and_then_for_each_task(encoder, kind, layers, expected):
    trunk = at_random(trunk_of(encoder, kind=kind, layers=layers))
    calls = {name: [] for name in encoder.stage_names}
    for name, stage in trunk.shared.items():
        stage.module.register_forward_hook(lambda _, given, __, name=name: calls[name].append(len(given[0])))
    inputs, rows = torch.randn(5, 4), {"age": torch.tensor([0, 3]), "type": torch.tensor([1, 4])}
    found = features_of(trunk, inputs, rows)
    assert calls == expected
    for task in ("age", "type"):
        torch.testing.assert_close(found[task], features_of(trunk, inputs)[task][rows[task]])


@kinds
def test_all_tasks_learn_in_one_step(encoder, kind):
    trunk = at_random(trunk_of(encoder, kind=kind))
    sum(values.square().sum() for values in features_of(trunk, torch.randn(9, 4)).values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in trunk.parameters())


# -- frozen and trained trunks ------------------------------------------------------------------------------------


class Normed(Encoder):
    """With what has a state of its own: batch normalisation and dropout."""

    modality = "tabular"

    def __init__(self, pretrained=False):
        vector = FeatureShape("vector", 6)
        layer = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
        super().__init__({"layer1": Stage(layer, vector), "layer2": Stage(nn.Linear(6, 6), vector)})
        self.pretrained = pretrained


@pytest.mark.parametrize("encoder", SMALL)
@kinds
def test_over_a_frozen_trunk_only_adapters_learn_each_by_its_own_task(kind, encoder):
    if kind == "bitfit" and encoder in ("bag", "bag-weighted"):
        return
    case = case_of(encoder)
    trunk = trunk_of(case.build(), TASKS[:2], kind=kind, trunk="frozen", embeddings=kind == "lora").train()
    learning = {parameter for parameter in trunk.parameters() if parameter.requires_grad}
    assert learning == set(trunk.adapters.parameters())
    features_of(trunk, case.inputs(), tasks=TASKS[:1])[TASKS[0]].sum().backward()
    reached = {parameter for parameter in trunk.parameters() if parameter.grad is not None}
    assert reached == {p for own in trunk.adapters.values() for p in own[TASKS[0]].parameters()}


def test_the_trunk_is_frozen_by_default_where_it_is_pretrained():
    for pretrained, parameters, learns in [
        (False, {}, True),
        (True, {}, False),
        (True, {"trunk": "trained"}, True),
        (False, {"trunk": "frozen"}, False),
    ]:
        trunk = trunk_of(Normed(pretrained), **parameters)
        assert {p.requires_grad for p in trunk.shared.parameters()} == {learns}
        assert all(p.requires_grad for p in trunk.adapters.parameters())


@kinds
def test_a_frozen_trunk_stays_in_evaluation(kind):
    trunk = at_random(trunk_of(Normed(pretrained=True), kind=kind)).train()
    before, inputs = copy.deepcopy(trunk.shared.state_dict()), torch.randn(8, 4)
    found = features_of(trunk, inputs)
    torch.testing.assert_close(found, features_of(trunk, inputs))
    torch.testing.assert_close(found, features_of(trunk.eval(), inputs))
    torch.testing.assert_close(trunk.shared.state_dict(), before, rtol=0, atol=0)
    trained = trunk_of(Normed(), kind=kind).train()
    features_of(trained, inputs)
    assert trained.shared["layer1"].module[1].num_batches_tracked > 0


def test_a_frozen_recurrent_layer_can_still_be_passed_backwards():
    trunk = trunk_of(CASES["bigru"].build(), trunk="frozen").train()
    recurrent = trunk.shared["layer1"].module
    assert recurrent.training  # cuDNN has no backward pass in evaluation
    assert not trunk.shared["layer1"].dropout.training
    assert not trunk.eval().shared["layer1"].module.training


def test_freezing_and_unfreezing_stages_leaves_a_frozen_trunk_as_it_is():
    model = MultiTaskModel({"row": Normed(pretrained=True)}, [Regression(task) for task in TASKS], Adapters())
    transfer = Transfer(frozen=1, unfreeze_every=1)
    for epoch in (0, 1):
        model.train()
        transfer.apply(model, epoch)
        trunk = model.trunk
        assert not any(p.requires_grad for p in trunk.shared.parameters())
        assert not any(module.training for module in trunk.shared.modules())
        # What is the tasks' own learns over a frozen trunk, too.
        assert all(p.requires_grad for p in trunk.adapters.parameters())


def test_the_state_says_whether_the_trunk_is_frozen():
    """An encoder that receives saved weights is built without its pretrained ones."""
    trunk = at_random(trunk_of(Normed(pretrained=True)))
    again = trunk_of(Normed()).train()
    assert all(p.requires_grad for p in again.parameters())
    again.load_state_dict(trunk.state_dict())
    assert {p for p in again.parameters() if p.requires_grad} == set(again.adapters.parameters())
    assert not any(module.training for module in again.shared.modules())
    assert copy.deepcopy(again).train().shared["layer1"].training is False
    again.load_state_dict(trunk_of(Normed()).state_dict())
    assert all(p.requires_grad for p in again.parameters())
    assert all(module.training for module in again.shared.modules())


# -- learning -----------------------------------------------------------------------------------------------------

INPUTS, WIDTH, ROWS = 12, 10, 40


class Pretrained(Encoder):
    """Two layers that know what the tasks have in common."""

    modality = "tabular"

    def __init__(self, weights):
        stages = {}
        for number, weight in enumerate(weights, start=1):
            linear = nn.Linear(weight.shape[1], WIDTH)
            linear.weight.data.copy_(weight)
            nn.init.zeros_(linear.bias)
            stages[f"layer{number}"] = Stage(nn.Sequential(linear, nn.Tanh()), FeatureShape("vector", WIDTH))
        super().__init__(stages)
        self.pretrained = True


def task_features(difference, inputs, first, second, random):
    """What a task sees whose difference from the others is one that a kind of adapters can learn."""

    def draw(*size):
        return torch.randn(*size, generator=random)

    if difference == "lora":
        first = first + draw(WIDTH, 1) @ draw(1, INPUTS) / INPUTS**0.5
    hidden = torch.tanh(inputs @ first.T + (draw(WIDTH) if difference == "bitfit" else 0))
    if difference == "houlsby":
        hidden = hidden + F.gelu(2 * hidden @ draw(WIDTH, 1) / WIDTH**0.5) @ draw(1, WIDTH)
    if difference == "film":
        hidden = hidden * (1 + draw(WIDTH)) + 0.5 * draw(WIDTH)
    return torch.tanh(hidden @ second.T + (draw(WIDTH) if difference == "bitfit" else 0))


def mean_error(difference, seed, name, **parameters):
    """On new rows, averaged over the tasks; each row is labelled for one of them."""
    random = torch.Generator().manual_seed(seed)
    weights = [torch.randn(WIDTH, size, generator=random) * 1.5 / size**0.5 for size in (INPUTS, WIDTH)]
    out = torch.randn(WIDTH, generator=random)
    inputs = torch.randn(len(TASKS), ROWS + 500, INPUTS, generator=random)
    targets = torch.stack([task_features(difference, rows, *weights, random) @ out for rows in inputs])
    targets = targets / targets.std()
    torch.manual_seed(seed)
    trunk = sharing.create(name, **parameters).build({"row": Pretrained(weights)}, TASKS)
    heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in TASKS)
    optimiser = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=0.03)

    def errors(part, rows):
        found = features_of(trunk, inputs[:, part].flatten(0, 1), dict(zip(TASKS, rows, strict=True))).values()
        predicted = [head(values)[:, 0] for head, values in zip(heads, found, strict=True)]
        return (torch.stack(predicted) - targets[:, part]).square().mean()

    trunk.train()
    for _ in range(100):
        optimiser.zero_grad()
        errors(slice(ROWS), torch.arange(len(TASKS) * ROWS).split(ROWS)).backward()
        optimiser.step()
    with torch.no_grad():
        trunk.eval()
        return errors(slice(ROWS, None), torch.arange(len(TASKS) * 500).split(500)).item()


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("lora", {"rank": 1, "alpha": 1.0, "layers": [1]}),
        ("houlsby", {"rank": 2}),
        ("film", {"layers": [1]}),
        ("bitfit", {}),
    ],
)
def test_few_weights_of_its_own_suit_a_task_with_few_labels_that_differs_a_little(kind, parameters):
    """They beat a trunk that is the same for all tasks, and a network for each task, started alike."""

    def error(name, **chosen):
        return sum(mean_error(kind, seed, name, **chosen) for seed in (0, 1)) / 2

    found = error("adapters", kind=kind, **parameters)
    assert found < 0.7 * error("hard")
    assert found < 0.7 * error("hard", share_until=0)


# -- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "ia3"}, r"'kind' must be one of 'lora', 'houlsby', 'film', 'bitfit', but 'ia3' was given"),
        ({"rank": 0}, r"'rank' must be at least 1, but 0 was given"),
        ({"alpha": 0.0}, r"'alpha' must be a number above 0, but 0.0 was given"),
        ({"alpha": float("nan")}, r"'alpha' must be a number above 0, but nan was given"),
        ({"dropout": 1.0}, r"'dropout' must be at least 0 and less than 1, but 1.0 was given"),
        ({"kind": "film", "dropout": 0.1}, r"kind: film has nothing to drop\. Leave 'dropout' out"),
        ({"kind": "houlsby", "embeddings": True}, r"'embeddings' goes with kind: lora alone, but kind is houlsby"),
        ({"trunk": "thawed"}, r"'trunk' must be one of 'auto', 'frozen', 'trained', but 'thawed' was given"),
        ({"layers": "top"}, r"'layers' must be 'all', or a list with one or more stages, but 'top' was given"),
        ({"layers": []}, r"'layers' must be 'all', or a list with one or more stages, but \[\] was given"),
    ],
)
def test_parameters_are_checked_at_once(parameters, message):
    with pytest.raises(UserError, match=message):
        Adapters(**parameters)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["midle"], r"no stage 'midle'.*Did you mean 'middle'\?"),
        ([0], r"no stage number 0: the encoder's stages are numbered from 1 to 3"),
        ([4], r"no stage number 4"),
    ],
)
def test_a_stage_that_does_not_exist_is_named_with_those_that_do(encoder, layers, message):
    with pytest.raises(UserError, match=message):
        trunk_of(encoder, layers=layers)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (
            "bag",
            {},
            r"^adapters: kind: lora has nothing to adapt in the encoder Bag: there is no linear, convolutional, "
            r"recurrent or attention layer in 'embed'\. Say embeddings: true to adapt its embedding tables, or choose "
            r"kind: houlsby",
        ),
        (
            "bag",
            {"kind": "bitfit"},
            r"nothing to adapt in the encoder Bag: there is no bias in 'embed'\. Choose",
        ),
        (
            "cnn",
            {"layers": ["conv1", "pool"]},
            r"in the encoder CNN: there is no linear.* in 'pool'\. Choose kind: h",
        ),
    ],
)
def test_where_there_is_nothing_to_adapt_building_says_so(name, parameters, message):
    with pytest.raises(UserError, match=message):
        trunk_of(CASES[name].build(), **parameters)
