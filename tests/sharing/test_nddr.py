from dataclasses import replace

import pytest
import torch
from torch import nn

from polytask import sharing
from polytask.errors import UserError
from polytask.features import Features
from polytask.sharing.nddr import TokenBatchNorm

from ..encoders.cases import CASES
from .two_tasks import STARVED, UNRELATED, Net, errors

TASKS = ["age", "type", "values"]
WIDTHS = (6, 8, 5)
STAGES = ("layer1", "layer2", "layer3")


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net(4, *WIDTHS)


def trunk_of(encoder, tasks=TASKS, **parameters):
    torch.manual_seed(1)
    return sharing.create("nddr", **parameters).build({"row": encoder}, tasks)


def with_random_weights(trunk):
    for parameter in (*trunk.exchanges.parameters(), *trunk.ends.parameters()):
        nn.init.normal_(parameter)
    return trunk


def features_of(trunk, inputs, tasks=TASKS):
    return {task: features.values for task, features in trunk({"row": inputs}, tasks, {}).features.items()}


def normed(values, norm):
    """Batch normalisation in training, over the rows of `[B, D]`."""
    centred = values - values.mean(0)
    return centred / (centred.square().mean(0) + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("normalization", ["batch", "none"])
def test_the_formula(net, normalization, activation):
    trunk = with_random_weights(trunk_of(net, normalization=normalization, activation=activation, fresh=True)).train()
    inputs = torch.randn(7, 4)
    columns = [inputs] * 3
    for stage in STAGES:
        columns = [trunk.columns[stage][task].module(x) for task, x in zip(TASKS, columns, strict=True)]
        if stage == "layer3":
            continue
        mixed = []
        for task in TASKS:
            mixer = trunk.exchanges[stage].mixers[task]
            values = torch.cat(columns, dim=1) @ mixer.map.weight.T
            values = values + mixer.map.bias if normalization == "none" else normed(values, mixer.norm)
            mixed.append(values.relu() if activation == "relu" else values)
        columns = mixed
    torch.testing.assert_close(features_of(trunk, inputs), dict(zip(TASKS, columns, strict=True)))


@pytest.mark.parametrize("normalization", ["batch", "none"])
@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_the_formula_on_maps_and_tokens(name, normalization):
    case = replace(CASES[name], parameters={**CASES[name].parameters, "dropout": 0.0})
    trunk = trunk_of(case.build(), TASKS[:2], after=1, normalization=normalization, fresh=True)
    with_random_weights(trunk).train()
    stages = list(trunk.columns.values())
    found = [stages[0][task](case.inputs()) for task in TASKS[:2]]
    mask = found[0].mask
    gathered = torch.cat([features.values for features in found], dim=1 if name == "cnn" else 2)
    for task in TASKS[:2]:
        mixer = trunk.exchanges[trunk.stage_names[0]].mixers[task]
        if name == "cnn":
            values = torch.einsum("bchw,dc->bdhw", gathered, mixer.map.weight[:, :, 0, 0])
            if normalization == "none":
                values = values + mixer.map.bias[:, None, None]
            else:
                last = values.movedim(1, -1)
                values = normed(last.flatten(0, 2), mixer.norm).view(last.shape).movedim(-1, 1)
        else:
            values = gathered @ mixer.map.weight.T
            if normalization == "none":
                values = values + mixer.map.bias
            else:
                # The statistics are of real tokens.
                values[mask] = normed(values[mask], mixer.norm)
        features = Features(values, mask)
        for stage in stages[1:]:
            features = stage[task](features)
        torch.testing.assert_close(
            features_of(trunk, case.inputs(), TASKS[:2])[task], features.values, rtol=1e-4, atol=1e-5
        )


def test_the_shortcut_reads_all_exchanges_and_the_last_stage(net):
    trunk = with_random_weights(trunk_of(net, shortcut=True, normalization="none"))
    inputs = torch.randn(7, 4)
    columns, layers = [inputs] * 3, []
    for stage in STAGES:
        columns = [trunk.columns[stage][task].module(x) for task, x in zip(TASKS, columns, strict=True)]
        if stage != "layer3":
            mixers = [trunk.exchanges[stage].mixers[task] for task in TASKS]
            columns = [torch.cat(columns, dim=1) @ mixer.map.weight.T + mixer.map.bias for mixer in mixers]
        layers.append(columns)
    for i, (task, found) in enumerate(features_of(trunk, inputs).items()):
        end = trunk.ends[task].map
        expected = torch.cat([columns[i] for columns in layers], dim=1) @ end.weight.T + end.bias
        torch.testing.assert_close(found, expected)


def test_the_number_of_parameters(net):
    network = sum(p.numel() for p in net.parameters())

    def count(k, **parameters):
        return sum(p.numel() for p in trunk_of(net, TASKS[:k], **parameters).parameters())

    for k in (2, 3):
        # By default not behind the last stage.
        maps = k**2 * (6**2 + 8**2)
        assert count(k) == k * network + maps + 2 * k * (6 + 8)
        assert count(k, normalization="none") == k * network + maps + k * (6 + 8)
        assert count(k, after="all") == k * network + maps + k**2 * 5**2 + 2 * k * sum(WIDTHS)
        assert count(k, shortcut=True) == count(k) + k * (sum(WIDTHS) * 5 + 2 * 5)


def test_maps_start_as_diagonals_and_columns_that_start_alike_do_as_the_encoder(net):
    trunk = trunk_of(net, normalization="none", self_weight=0.8)
    weight = trunk.exchanges["layer1"].mixers["type"].map.weight
    torch.testing.assert_close(weight, torch.cat([0.1 * torch.eye(6), 0.8 * torch.eye(6), 0.1 * torch.eye(6)], dim=1))
    inputs = torch.randn(5, 4)
    for features in features_of(trunk, inputs).values():
        torch.testing.assert_close(features, net(inputs).values)


def test_with_nothing_mixed_it_is_separate_networks(net):
    trunk = trunk_of(net, normalization="none", self_weight=1.0, fresh=True)
    inputs = torch.randn(5, 4)
    found = features_of(trunk, inputs)
    for task in TASKS:
        expected = inputs
        for stage in STAGES:
            expected = trunk.columns[stage][task].module(expected)
        torch.testing.assert_close(found[task], expected)


def test_what_is_learned_is_the_strength_of_each_block(net):
    trunk = trunk_of(net, self_weight=0.8, shortcut=True)
    with torch.no_grad():
        trunk.exchanges["layer2"].mixers["type"].map.weight[:, :8] *= -5
        trunk.ends["age"].map.weight[:, :6] = 0
    tables = trunk.learned()
    assert list(tables) == ["exchange behind layer1", "exchange behind layer2", "layers"]
    table = tables["exchange behind layer2"]
    assert table.rows == table.columns == tuple(TASKS)
    torch.testing.assert_close(table.values, torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.8, 0.1], [0.1, 0.1, 0.8]]))
    table = tables["layers"]
    assert (table.rows, table.columns) == (tuple(TASKS), STAGES)
    assert table.values[0, 0] == 0
    block = trunk.ends["type"].map.weight[:, 6:14]
    directions = nn.functional.normalize(torch.randn(100_000, 8), dim=1)
    sampled = (directions @ block.T).square().sum(1).mean().sqrt().item()
    assert table.values[1, 1].item() == pytest.approx(sampled, rel=0.01)


def test_unreal_tokens_have_no_part_in_the_statistics():
    torch.manual_seed(0)
    norm, plain = TokenBatchNorm(4), nn.BatchNorm1d(4)
    values = torch.randn(3, 5, 4, requires_grad=True)
    mask = torch.arange(5) < torch.tensor([[2], [5], [0]])
    found = norm(values, mask)
    torch.testing.assert_close(found[mask], plain(values[mask]))
    assert not found[~mask].any()
    torch.testing.assert_close(norm.running_var, plain.running_var)
    found.square().sum().backward()
    assert not values.grad[~mask].any()
    torch.testing.assert_close(norm(values, None), plain(values.flatten(0, 1)).view(3, 5, 4))
    torch.testing.assert_close(norm.eval()(values, mask)[mask], plain.eval()(values[mask]))


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_batch_without_tokens_or_with_one_trains(tokens):
    norm = TokenBatchNorm(4)
    before = norm.running_mean.clone()
    mask = torch.zeros(2, 3, dtype=torch.bool)
    mask[0, :tokens] = True
    values = torch.randn(2, 3, 4)
    found = norm(values, mask)
    torch.testing.assert_close(found[mask], values[mask] / (1 + norm.eps) ** 0.5)
    assert torch.equal(norm.running_mean, before)


def test_one_row_trains(net):
    found = trunk_of(net, after="all").train()({"row": torch.randn(4, 4)}, TASKS, {"age": torch.tensor([2])})
    assert found.features["age"].values.isfinite().all()
    assert features_of(trunk_of(net, after="all").train(), torch.randn(1, 4))["type"].isfinite().all()


def test_it_serves_unrelated_tasks_better_than_one_narrow_network():
    assert errors(UNRELATED, "nddr").sum() < 0.75 * errors(UNRELATED, "hard").sum()


def test_a_task_with_few_labels_gains_from_one_with_many():
    assert errors(STARVED, "nddr", after="all")[0] < 0.75 * errors(STARVED, "hard", share_until=0)[0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"normalization": "layer"}, "'normalization' must be 'batch' or 'none', but 'layer' was given"),
        ({"activation": "gelu"}, "'activation' must be 'none' or 'relu', but 'gelu' was given"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        sharing.create("nddr", **parameters)
