import pytest
import torch
from torch import nn

from polytask import encoders, sharing
from polytask.config.derive import parameters_of
from polytask.encoders.encoder import Encoder, Stage
from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.shapes import TabularShape
from polytask.sharing.gates import imbalance

from .one_unit import error

TASKS = ["age", "type", "values"]
SHARED_SIZE = 4 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3


def trunk_of(encoder, tasks=TASKS, **parameters):
    torch.manual_seed(1)
    return sharing.create("mmoe", **parameters).build({"row": encoder}, tasks)


def features_of(trunk, inputs, tasks=TASKS, rows=None):
    return {task: found.values for task, found in trunk({"row": inputs}, tasks, rows or {}).features.items()}


def gate_of(trunk, task, level=0):
    return trunk.levels[level].fusions[task].gate


def softmax(values):
    return values.exp() / values.exp().sum(1, keepdim=True)


def test_features_are_the_gated_sum_of_the_experts(encoder):
    trunk = trunk_of(encoder, experts=3, hidden=[7, 5])
    inputs = torch.randn(4, 4)
    x = encoder(inputs).values
    (experts,) = trunk.levels[0].experts
    for task, found in features_of(trunk, inputs).items():
        gate = gate_of(trunk, task).map
        weights = softmax(x @ gate.weight.T + gate.bias)
        expected = torch.zeros(4, 5)
        for number in range(3):
            own = slice(7 * number, 7 * number + 7)
            hidden = torch.relu(x @ experts.first.weight[own].T + experts.first.bias[own])
            hidden = torch.relu(hidden @ experts.later[0].weight[number] + experts.later[0].bias[number])
            expected += weights[:, number : number + 1] * hidden
        torch.testing.assert_close(found, expected)


def test_features_are_the_gated_sum_of_copies_of_the_later_stages(encoder):
    trunk = trunk_of(encoder, experts=3, share_until="bottom")
    inputs = torch.randn(4, 4)
    x = encoder.stages["bottom"].module(inputs)
    (experts,) = trunk.levels[0].experts
    for task, found in features_of(trunk, inputs).items():
        gate = gate_of(trunk, task).map
        weights = softmax(x @ gate.weight.T + gate.bias)
        outputs = [stages["top"].module(stages["middle"].module(x)) for stages in experts.experts]
        expected = sum(weights[:, number : number + 1] * output for number, output in enumerate(outputs))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("parameters", [{"hidden": [7]}, {"share_until": "bottom"}])
def test_one_expert_is_hard_sharing(encoder, parameters):
    trunk = trunk_of(encoder, experts=1, **parameters)
    inputs = torch.randn(4, 4)
    found = features_of(trunk, inputs)
    torch.testing.assert_close(found["age"], found["type"])
    assert set(trunk.shared_parameters()) == set(trunk.parameters())
    if "share_until" in parameters:
        torch.testing.assert_close(found["age"], encoder(inputs).values)


def test_perceptrons_have_this_many_parameters(encoder):
    trunk = trunk_of(encoder, experts=4, hidden=[7, 5])
    experts = 4 * (3 * 7 + 7 + 7 * 5 + 5)
    gates = len(TASKS) * (3 * 4 + 4)
    assert sum(p.numel() for p in trunk.parameters()) == SHARED_SIZE + experts + gates
    assert sum(p.numel() for p in trunk.shared_parameters()) == SHARED_SIZE + experts


def test_stage_experts_have_this_many_parameters(encoder):
    trunk = trunk_of(encoder, experts=4, share_until=1)
    experts = 4 * (6 * 5 + 5 + 5 * 3 + 3)
    assert sum(p.numel() for p in trunk.parameters()) == 4 * 6 + 6 + experts + len(TASKS) * (6 * 4 + 4)


def test_perceptrons_are_a_quarter_as_wide_as_the_features_but_no_narrower_than_32(encoder):
    assert trunk_of(encoder).shape("age") == FeatureShape("vector", 32)
    wide = encoders.create("mlp", width=400, depth=1, shape=TabularShape(numeric=3, cardinalities=()))
    trunk = trunk_of(wide)
    assert trunk.shape("age") == FeatureShape("vector", 100)
    assert trunk.levels[0].experts[0].first.weight.shape == (800, 400)


def test_a_gate_sees_its_tasks_rows_alone(encoder):
    trunk = trunk_of(encoder, experts=2)
    seen = {}
    for task in TASKS:
        gate_of(trunk, task).map.register_forward_pre_hook(lambda _, given, task=task: seen.update({task: given[0]}))
    inputs, rows = torch.randn(5, 4), {"type": torch.tensor([1, 3])}
    found = features_of(trunk, inputs, ["age", "type"], rows)
    assert {task: len(given) for task, given in seen.items()} == {"age": 5, "type": 2}
    torch.testing.assert_close(found["type"], features_of(trunk, inputs)["type"][[1, 3]])


def test_all_stages_of_one_task_alone_see_its_rows_alone(encoder):
    trunk = trunk_of(encoder, ["only"], experts=2)
    inputs, rows = torch.randn(5, 4), torch.tensor([1, 3])
    sizes = []
    encoder.stages["bottom"].register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    found = features_of(trunk, inputs, ["only"], {"only": rows})["only"]
    assert sizes == [2]
    torch.testing.assert_close(found, features_of(trunk, inputs, ["only"])["only"][rows])


def test_copies_of_a_pretrained_encoder_start_alike_and_gates_do_not(encoder):
    encoder.pretrained = True
    trunk = trunk_of(encoder, experts=3, share_until=1)
    inputs = torch.randn(4, 4)
    for found in features_of(trunk, inputs).values():
        torch.testing.assert_close(found, encoder(inputs).values)
    # Gates that differ from expert to expert give these different gradients, so that they grow apart.
    features_of(trunk, inputs)["age"].sum().backward()
    first, second, _ = (stages["top"].module[0].weight.grad for stages in trunk.levels[0].experts[0].experts)
    assert not torch.allclose(first, second)


def test_learned_are_the_gates_mean_weights(encoder):
    trunk = trunk_of(encoder, experts=3)
    assert trunk.learned()["gates"].values.tolist() == [pytest.approx([1 / 3] * 3)] * 3
    with torch.no_grad():
        gate_of(trunk, "type").map.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    for _ in range(200):
        trunk.train()({"row": torch.randn(4, 4)}, ["type"], {})
    table = trunk.learned()["gates"]
    assert table.rows == tuple(TASKS)
    assert table.columns == ("expert 1", "expert 2", "expert 3")
    torch.testing.assert_close(table.values[1], torch.tensor([0.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    assert table.values[0].tolist() == pytest.approx([1 / 3] * 3)


def test_the_penalty_is_the_imbalance_of_the_gates(encoder):
    trunk = trunk_of(encoder, experts=3, balance=0.5).train()
    inputs = torch.randn(6, 4)
    weights = [softmax(gate_of(trunk, task).map(encoder(inputs).values)) for task in TASKS]
    expected = 0.5 * imbalance(weights, [torch.arange(3)] * 3, 3)
    torch.testing.assert_close(trunk({"row": inputs}, TASKS, {}).penalties, {"gate_balance": expected})
    assert trunk_of(encoder, experts=3).train()({"row": inputs}, TASKS, {}).penalties == {}


def test_the_penalty_brings_a_forgotten_expert_back(encoder):
    trunk = trunk_of(encoder, experts=3, balance=1.0).train()
    with torch.no_grad():
        for task in TASKS:
            gate_of(trunk, task).map.bias.copy_(torch.tensor([3.0, 0.0, -3.0]))
    optimiser = torch.optim.Adam(trunk.parameters(), lr=0.1)
    inputs, penalties = torch.randn(8, 4), []
    for _ in range(60):
        penalty = trunk({"row": inputs}, TASKS, {}).penalties["gate_balance"]
        optimiser.zero_grad()
        penalty.backward()
        optimiser.step()
        penalties.append(penalty.item())
    assert penalties[-1] < 0.01 * penalties[0]


def test_experts_are_dropped_while_training_only(encoder):
    trunk = trunk_of(encoder, experts=4, gate_dropout=0.5)
    inputs = torch.randn(4, 4)
    calm = trunk_of(encoder, experts=4)
    calm.load_state_dict(trunk.state_dict())
    torch.testing.assert_close(features_of(trunk.eval(), inputs), features_of(calm, inputs))
    assert not torch.allclose(features_of(trunk.train(), inputs)["age"], features_of(calm, inputs)["age"])


def test_stages_are_shared_and_experts_listed_where_they_belong(encoder):
    parts = trunk_of(encoder, ["a", "b"], experts=2, share_until=2).parts()
    assert [(part.name, part.tasks, part.depth) for part in parts] == [
        ("bottom", ("a", "b"), 0),
        ("middle", ("a", "b"), 1),
        ("expert 1 of top", ("a", "b"), 2),
        ("expert 2 of top", ("a", "b"), 2),
        ("gate of a", ("a",), None),
        ("gate of b", ("b",), None),
    ]
    parts = trunk_of(encoder, ["a", "b"], experts=2).parts()
    assert [(part.name, part.depth) for part in parts[3:]] == [
        ("expert 1 to expert 2", None), ("gate of a", None), ("gate of b", None),
    ]  # fmt: skip


class Map(Encoder):
    modality = "image"

    def __init__(self):
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(
            {
                "low": Stage(nn.Conv2d(1, 3, 3), FeatureShape("map", 3)),
                "pool": Stage(pool, FeatureShape("vector", 3)),
            }
        )


def test_copies_of_a_stage_without_parameters_are_no_trouble():
    trunk = trunk_of(Map(), experts=2, share_until=1)
    images = torch.randn(2, 1, 5, 5)
    expected = trunk.stages_in_common["low"].module(images).mean((2, 3))
    torch.testing.assert_close(features_of(trunk, images)["age"], expected)


def test_tasks_with_nothing_in_common_gain_over_hard_sharing():
    assert error("mmoe", experts=4, share_until=1) < 0.4 * error("hard")


def test_its_parameters_can_be_configured():
    names = [parameter.name for parameter in parameters_of(sharing.MMoE)]
    assert names == ["experts", "share_until", "hidden", "gate_dropout", "balance"]
    assert all(parameter.description for parameter in parameters_of(sharing.MMoE))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"experts": 0}, "'experts' must be at least 1, but 0 was given"),
        ({"hidden": []}, r"mmoe: 'hidden' is \[\], but needs at least one width"),
        ({"hidden": [4, 0]}, r"mmoe: 'hidden' is \[4, 0\]"),
        ({"gate_dropout": 1.0}, "'gate_dropout' must be at least 0 and less than 1"),
        ({"balance": -1.0}, "mmoe: 'balance' must be a number of at least 0, but -1.0 was given"),
        ({"balance": float("nan")}, "mmoe: 'balance' must be a number"),
        ({"share_until": 0}, "mmoe: 'share_until' is 0, but the gates cannot read the raw input of Layers"),
        ({"share_until": -3}, "mmoe: 'share_until' is -3, but the gates cannot read"),
        ({"share_until": "botom"}, "no stage 'botom'.*Did you mean 'bottom'"),
        ({"share_until": 1, "hidden": [4]}, r"mmoe: 'hidden' is for experts on top.*'share_until' \(1\).*of Layers's"),
    ],
)
def test_bad_parameters_are_refused(encoder, parameters, message):
    with pytest.raises(UserError, match=message):
        trunk_of(encoder, **parameters)
