import numpy
import pytest
import torch
from torch import nn

from polytask import sharing
from polytask.encoders.encoder import Encoder, Stage
from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.sharing.sluice import correlation

from ..encoders.cases import CASES
from .two_tasks import STARVED, UNRELATED, Net, errors

TASKS = ["age", "type", "values"]
SIZES = (4, 6, 8, 8)
STAGES = ("layer1", "layer2", "layer3")


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net(*SIZES)


def trunk_of(encoder, tasks=TASKS, **parameters):
    torch.manual_seed(1)
    return sharing.create("sluice", **parameters).build({"row": encoder}, tasks)


def with_random_weights(trunk):
    for parameter in (*trunk.exchanges.parameters(), *trunk.ends.parameters()):
        nn.init.normal_(parameter)
    return trunk


def features_of(trunk, inputs, tasks=TASKS):
    return {task: features.values for task, features in trunk({"row": inputs}, tasks, {}).features.items()}


@pytest.mark.parametrize("subspaces", [1, 2])
def test_the_formula(net, subspaces):
    trunk = with_random_weights(trunk_of(net, subspaces=subspaces, fresh=True)).eval()
    inputs = torch.randn(5, 4)
    columns, outputs = [inputs] * 3, []
    for stage in STAGES:
        columns = [trunk.columns[stage][task].module(x) for task, x in zip(TASKS, columns, strict=True)]
        parts = [part for x in columns for part in x.split(x.shape[1] // subspaces, dim=1)]
        weights = torch.cat([trunk.exchanges[stage].mixers[task].weights.view(subspaces, -1) for task in TASKS])
        mixed = [sum(weights[i, j] * parts[j] for j in range(len(parts))) for i in range(len(parts))]
        columns = [torch.cat(mixed[i * subspaces : (i + 1) * subspaces], dim=1) for i in range(3)]
        outputs.append(columns)
    found = features_of(trunk, inputs)
    for i, task in enumerate(TASKS):
        end = trunk.ends[task]
        # The first stage is not as wide as the last; the second is.
        mapped = [outputs[0][i] @ end.maps[0].weight.T, outputs[1][i], outputs[2][i]]
        expected = sum(weight * values for weight, values in zip(end.weights, mapped, strict=True))
        torch.testing.assert_close(found[task], expected)


def test_layers_of_every_kind_are_mixed_as_vectors():
    case = CASES["transformer"]
    trunk = with_random_weights(trunk_of(case.build(), fresh=True, self_weight=1.0))
    for exchange in trunk.exchanges.values():
        for task, own in zip(TASKS, torch.eye(6).split(2), strict=True):
            exchange.mixers[task].weights.data = own.flatten()
    features = case.inputs()
    layers = []
    for stages in trunk.eval().columns.values():
        features = stages["type"](features)
        values, mask = features.values, features.mask
        layers.append(
            values if mask is None else torch.stack([x[m].mean(0) for x, m in zip(values, mask, strict=True)])
        )
    expected = sum(weight * x for weight, x in zip(trunk.ends["type"].weights, layers, strict=True))
    torch.testing.assert_close(features_of(trunk, case.inputs())["type"], expected)


def test_the_number_of_parameters(net):
    network = sum(p.numel() for p in net.parameters())
    for k, g in ((2, 1), (2, 2), (3, 2)):
        trunk = trunk_of(net, TASKS[:k], subspaces=g)
        exchanges, ends = 3 * (k * g) ** 2, k * (3 + 6 * 8)
        assert sum(p.numel() for p in trunk.parameters()) == k * network + exchanges + ends
    trunk = trunk_of(net, TASKS[:2], after=["layer2"])
    assert sum(p.numel() for p in trunk.parameters()) == 2 * network + 16 + 2 * 2
    trunk = trunk_of(net, TASKS[:2], mix_layers=False)
    assert sum(p.numel() for p in trunk.parameters()) == 2 * network + 3 * 16


def test_with_one_subspace_and_the_last_layer_it_is_cross_stitch(net):
    trunk = with_random_weights(trunk_of(net, subspaces=1, mix_layers=False))
    other = sharing.create("cross_stitch").build({"row": Net(*SIZES)}, TASKS)
    other.load_state_dict(trunk.state_dict())
    inputs = torch.randn(5, 4)
    torch.testing.assert_close(features_of(trunk, inputs), features_of(other, inputs))
    assert trunk.train()({"row": inputs}, TASKS, {}).penalties == {}


def test_with_nothing_mixed_it_is_separate_networks(net):
    trunk = trunk_of(net, self_weight=1.0, last_weight=1.0, fresh=True)
    inputs = torch.randn(5, 4)
    found = features_of(trunk, inputs)
    for task in TASKS:
        expected = inputs
        for stage in STAGES:
            expected = trunk.columns[stage][task].module(expected)
        torch.testing.assert_close(found[task], expected)


def test_a_task_alone_mixes_its_layers(net):
    trunk = with_random_weights(trunk_of(net, ["only"]))
    x = inputs = torch.randn(5, 4)
    layers = []
    for stage in STAGES:
        x = net.stages[stage].module(x)
        layers.append(x)
    first, second, third = trunk.ends["only"].weights
    expected = first * layers[0] @ trunk.ends["only"].maps[0].weight.T + second * layers[1] + third * layers[2]
    torch.testing.assert_close(features_of(trunk, inputs, ["only"])["only"], expected)
    assert trunk.shared_parameters() == []


def test_rows_of_a_task_are_the_same_in_every_layer(net):
    trunk = with_random_weights(trunk_of(net, after=["layer1", "layer2"], fresh=True))
    inputs = torch.randn(6, 4)
    rows = {"age": torch.tensor([1, 5]), "type": torch.tensor([0, 2, 3])}
    found = trunk({"row": inputs}, ["type", "age"], rows).features
    whole = features_of(trunk, inputs)
    for task, positions in rows.items():
        torch.testing.assert_close(found[task].values, whole[task][positions])


def test_what_is_learned(net):
    tables = trunk_of(net, TASKS[:2], self_weight=0.7, last_weight=0.8).learned()
    table = tables["exchange behind layer2"]
    assert table.rows == table.columns == ("age 1", "age 2", "type 1", "type 2")
    torch.testing.assert_close(table.values, 0.6 * torch.eye(4) + 0.1)
    table = tables["layers"]
    assert (table.rows, table.columns) == (("age", "type"), STAGES)
    torch.testing.assert_close(table.values, torch.tensor([[0.1, 0.1, 0.8]] * 2))


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("subspaces", [2, 3])
def test_the_penalty_is_the_mean_square_of_correlations(rows, subspaces):
    torch.manual_seed(0)
    values = torch.randn(2, rows, 24).double() * torch.rand(24) * 5 + torch.randn(24)
    size = 24 // subspaces
    expected = []
    for task in values.numpy():
        squares = numpy.corrcoef(task.T) ** 2
        blocks = [
            squares[g * size : (g + 1) * size, h * size : (h + 1) * size].mean()
            for g in range(subspaces)
            for h in range(g)
        ]
        expected.append(numpy.mean(blocks))
    found = correlation(values, subspaces)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(correlation(values * 10 + 3, subspaces), found, rtol=1e-5, atol=1e-6)


def test_equal_subspaces_have_penalty_one_and_constant_features_none():
    values = torch.randn(9, 1)
    assert correlation(values.repeat(1, 4)[None], 2).item() == pytest.approx(1, abs=1e-4)
    assert correlation(torch.ones(1, 9, 4), 2).item() == 0
    single = torch.randn(1, 1, 4, requires_grad=True)
    penalty = correlation(single, 2)
    penalty.sum().backward()
    assert penalty.item() == 0
    assert single.grad.isfinite().all()


def test_penalties_are_summed_over_tasks_and_stages(net):
    inputs = torch.randn(20, 4)

    def penalty(strength, **parameters):
        trunk = trunk_of(net, orthogonality=strength, after="inner", fresh=True, **parameters).train()
        return trunk, trunk({"row": inputs}, TASKS[:1], {}).penalties

    trunk, found = penalty(0.5)
    columns, expected = dict.fromkeys(TASKS, inputs), 0.0
    for stage in STAGES[:2]:
        columns = {task: trunk.columns[stage][task].module(x) for task, x in columns.items()}
        expected += correlation(torch.stack(list(columns.values())), 2).sum()
        weights = torch.cat([trunk.exchanges[stage].mixers[task].weights.view(2, -1) for task in TASKS])
        parts = torch.stack([part for x in columns.values() for part in x.chunk(2, dim=1)])
        mixed = torch.einsum("ij,jbd->ibd", weights, parts)
        columns = {task: torch.cat(list(mixed[2 * i : 2 * i + 2]), dim=1) for i, task in enumerate(TASKS)}
    assert list(found) == ["orthogonality"]
    torch.testing.assert_close(found["orthogonality"], 0.5 * expected)
    assert penalty(0.0)[1] == {}
    assert trunk.eval()({"row": inputs}, TASKS, {}).penalties == {}


def test_the_penalty_takes_subspaces_apart():
    def correlated(strength):
        torch.manual_seed(0)
        trunk = trunk_of(Net(12, 6, 8), TASKS[:2], orthogonality=strength, after="layer1").train()
        torch.manual_seed(0)
        inputs = torch.randn(64, 12)
        optimiser = torch.optim.Adam(trunk.parameters(), lr=1e-2)
        for _ in range(30):
            found = trunk({"row": inputs}, TASKS[:2], {})
            loss = sum(features.values.mean().square() for features in found.features.values())
            optimiser.zero_grad()
            (loss + sum(found.penalties.values())).backward()
            optimiser.step()
        values = torch.stack([stage(inputs).values for stage in trunk.columns["layer1"].values()])
        return correlation(values, 2).mean()

    assert correlated(1.0) < 0.5 * correlated(0.0)


class Odd(Encoder):
    modality = "tabular"

    def __init__(self, *widths):
        sizes = (4, *widths)
        super().__init__(
            {
                f"width{width}": Stage(nn.Linear(before, width), FeatureShape("vector", width))
                for before, width in zip(sizes, widths, strict=False)
            }
        )


def test_stages_that_cannot_be_cut_exchange_nothing_unless_they_are_named():
    assert list(trunk_of(Odd(5, 6, 8)).exchanges) == ["width6", "width8"]
    trunk = trunk_of(Odd(6, 8, 5))
    assert list(trunk.exchanges) == ["width6", "width8"]
    assert trunk.learned()["layers"].columns == ("width6", "width8", "width5")
    with pytest.raises(UserError, match="'sluice' over the encoder Odd .* 'width5': its 5 features cannot be cut"):
        trunk_of(Odd(6, 5), after=["width6", "width5"])
    with pytest.raises(UserError, match=r"'sluice' over the encoder Odd .* any stage\. Of 'width5', its 5 features"):
        trunk_of(Odd(5, 7))


def test_it_serves_unrelated_tasks_better_than_one_narrow_network():
    assert errors(UNRELATED, "sluice").sum() < 0.75 * errors(UNRELATED, "hard").sum()


def test_a_task_with_few_labels_gains_from_one_with_many():
    assert errors(STARVED, "sluice", self_weight=0.5)[0] < 0.75 * errors(STARVED, "hard", share_until=0)[0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"subspaces": 0}, "'subspaces' must be at least 1, but 0 was given"),
        ({"orthogonality": -1.0}, "'orthogonality' must be at least 0, but -1.0 was given"),
        ({"orthogonality": float("nan")}, "'orthogonality' must be at least 0"),
        ({"last_weight": 2.0}, "'last_weight' must be from 0 to 1, but 2.0 was given"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        sharing.create("sluice", **parameters)
