import pytest
import torch
from torch import nn

from polytask import sharing
from polytask.encoders import Encoder, FeatureShape, Stage
from polytask.errors import UserError

SIZES = {"bottom": 4 * 6 + 6, "middle": 6 * 5 + 5, "top": 5 * 3 + 3}
TASKS = ["a", "b", "c"]


def trunk_of(encoder, tasks=TASKS, **options):
    torch.manual_seed(1)
    return sharing.StackedExperts(**options).build({"row": encoder}, tasks)


def outputs_of(trunk, inputs):
    """Each expert's output."""
    found = []
    for stages in trunk.experts.values():
        features = inputs
        for stage in stages.values():
            features = stage(features)
        found.append(features.values)
    return found


@pytest.mark.parametrize("gate", ["task", "input"])
def test_features_are_the_weighted_experts(encoder, gate):
    trunk = trunk_of(encoder, gate=gate)
    for parameter in trunk.gates.parameters():
        nn.init.normal_(parameter)
    inputs = torch.randn(7, 4)
    experts = outputs_of(trunk, inputs)
    found = trunk({"row": inputs}, TASKS, {}).features
    for task in TASKS:
        scores = [
            trunk.gates[task].logits[e] + (0 if gate == "task" else experts[e] @ trunk.gates[task].directions[e])
            for e in range(3)
        ]
        weights = [torch.exp(score) / sum(torch.exp(other) for other in scores) for score in scores]
        expected = sum(w.reshape(-1, 1) * h for w, h in zip(weights, experts, strict=True))
        torch.testing.assert_close(found[task].values, expected)


@pytest.mark.parametrize("gate", ["task", "input"])
def test_at_the_start_a_task_mostly_keeps_to_its_own_expert(encoder, gate):
    trunk = trunk_of(encoder, gate=gate, own=0.7, experts=["c", "a"])
    table = trunk.learned()["gates"]
    assert (table.rows, table.columns) == (("a", "b", "c"), ("c", "a"))
    torch.testing.assert_close(table.values, torch.tensor([[0.3, 0.7], [0.5, 0.5], [0.7, 0.3]]))
    inputs = torch.randn(5, 4)
    c, a = outputs_of(trunk, inputs)
    torch.testing.assert_close(trunk({"row": inputs}, ["a"], {}).features["a"].values, 0.7 * a + 0.3 * c)


def test_experts_differ_unless_the_encoder_is_pretrained(encoder):
    inputs = torch.randn(5, 4)
    experts = outputs_of(trunk_of(encoder), inputs)
    torch.testing.assert_close(experts[0], encoder(inputs).values)
    assert not torch.allclose(experts[0], experts[1])
    assert not torch.allclose(experts[1], experts[2])
    encoder.pretrained = True
    for expert in outputs_of(trunk_of(encoder), inputs):
        torch.testing.assert_close(expert, encoder(inputs).values)


@pytest.mark.parametrize("options", [{}, {"gate": "input"}, {"experts": ["b", "c"]}, {"experts": ["b"]}])
def test_parameters_are_counted(encoder, options):
    trunk = trunk_of(encoder, **options)
    experts = len(options.get("experts", TASKS))
    gate = 0 if experts == 1 else experts * (1 + (3 if options.get("gate") == "input" else 0))
    assert sum(p.numel() for p in trunk.parameters()) == experts * sum(SIZES.values()) + 3 * gate
    assert sum(p.numel() for p in trunk.shared_parameters()) == experts * sum(SIZES.values())


def test_one_expert_is_hard_sharing(encoder):
    trunk = trunk_of(encoder, experts=["b"])
    inputs = torch.randn(5, 4)
    rows = {"a": torch.tensor([0, 3])}
    found = trunk({"row": inputs}, TASKS, rows).features
    expected = sharing.Hard().build({"row": encoder}, TASKS)({"row": inputs}, TASKS, rows).features
    for task in TASKS:
        torch.testing.assert_close(found[task].values, expected[task].values)
    assert trunk.learned() == {}
    assert [part.name for part in trunk.parts()] == list(SIZES)


def test_gates_that_read_the_input_report_their_mean_over_recent_batches(encoder):
    trunk = trunk_of(encoder, gate="input")
    nn.init.normal_(trunk.gates["a"].directions)
    inputs = torch.randn(50, 4)
    before = trunk.learned()["gates"].values
    trunk.eval()({"row": inputs}, TASKS, {})
    assert torch.equal(trunk.learned()["gates"].values, before)
    for _ in range(200):
        trunk.train()({"row": inputs}, ["a"], {})
    values = torch.stack(outputs_of(trunk, inputs), dim=1)
    after = trunk.learned()["gates"].values
    torch.testing.assert_close(after[0], trunk.gates["a"](values).mean(0), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(after[0], before[0], atol=1e-2)
    assert torch.equal(after[1:], before[1:])


def test_parts_can_be_frozen_by_stage(encoder):
    parts = trunk_of(encoder).parts()
    assert [part.name for part in parts[:4]] == [
        "bottom of expert a", "bottom of expert b", "bottom of expert c", "middle of expert a",
    ]  # fmt: skip
    assert [part.depth for part in parts] == [0] * 3 + [1] * 3 + [2] * 3 + [None] * 3
    assert parts[-1].tasks == ("c",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "row"}, "'gate' must be one of 'task', 'input', but 'row' was given"),
        ({"own": 1.0}, "'own' must be above 0 and below 1, but 1.0 was given"),
        ({"own": float("nan")}, "'own' must be above 0 and below 1"),
        ({"experts": []}, r"'experts' must be a list of one or more tasks, each of them once, but \[\]"),
        ({"experts": ["a", "a"]}, "each of them once"),
        ({"experts": "a"}, "'experts' must be a list"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        sharing.StackedExperts(**options)


def test_an_expert_is_a_task(encoder):
    with pytest.raises(UserError, match="stacked_experts: 'experts' names 'd'.*The tasks: 'a', 'b', 'c'"):
        trunk_of(encoder, experts=["a", "d"])


class Layers(Encoder):
    """Two stages that make eight very different features."""

    modality = "tabular"

    def __init__(self):
        sizes = {"bottom": (4, 16), "top": (16, 8)}
        super().__init__(
            {
                name: Stage(nn.Sequential(nn.Linear(*size), nn.Tanh()), FeatureShape("vector", size[1]))
                for name, size in sizes.items()
            }
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)


@pytest.mark.parametrize("gate", ["task", "input"])
def test_a_new_task_finds_the_expert_that_it_needs_and_does_better_than_with_a_network_of_its_own(gate):
    """Two experts know their task; the third task depends on what one of them computes, and has few rows."""
    torch.manual_seed(0)
    encoder = Layers()
    trunk = sharing.StackedExperts(["a", "b"], gate=gate).build({"row": encoder}, TASKS)
    trunk.experts.requires_grad_(False)
    alone = sharing.Hard().build({"row": Layers()}, ["c"])
    x, fresh = torch.randn(40, 4), torch.randn(500, 4)
    weights = torch.randn(8, 1)
    y, expected = (outputs_of(trunk, rows)[1] @ weights for rows in (x, fresh))

    def error(network):
        head = nn.Linear(8, 1)
        nn.init.zeros_(head.weight)
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam([*learning, *head.parameters()], lr=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            (head(network({"row": x}, ["c"], {}).features["c"].values) - y).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            return float((head(network({"row": fresh}, ["c"], {}).features["c"].values) - expected).square().mean())

    assert error(trunk) < 0.3 * error(alone)
    assert trunk.learned()["gates"].values[2, 1] > 0.8
