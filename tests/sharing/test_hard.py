import pytest
import torch
from torch import nn

from polytask import sharing
from polytask.encoders.encoder import Encoder, Stage
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.sharing.sharing import select_rows

STAGE_SIZES = {"bottom": 4 * 6 + 6, "middle": 6 * 5 + 5, "top": 5 * 3 + 3}
TASKS = ["age", "type", "values"]


def trunk_of(encoder, share_until, tasks=TASKS):
    return sharing.Hard(share_until).build({"row": encoder}, tasks)


def reached(trunk, task):
    """The parameters that a task's features depend on."""
    features = trunk({"row": torch.ones(2, 4)}, TASKS, {}).features[task].values
    parameters = list(trunk.parameters())
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    return {p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def test_hard_sharing_is_listed_and_built_by_name():
    assert "hard" in sharing.names()
    assert sharing.create("hard", share_until="middle").share_until == "middle"


@pytest.mark.parametrize(
    ("share_until", "depth"),
    [(None, 3), (3, 3), ("top", 3), ("middle", 2), (2, 2), (-1, 2), ("bottom", 1), (1, 1), (-2, 1), (0, 0), (-3, 0)],
)
def test_stages_up_to_the_given_one_are_shared_and_the_others_are_not(encoder, share_until, depth):
    trunk = trunk_of(encoder, share_until)
    sizes = list(STAGE_SIZES.values())
    assert sum(p.numel() for p in trunk.parameters()) == sum(sizes[:depth]) + len(TASKS) * sum(sizes[depth:])
    assert sum(p.numel() for p in trunk.shared_parameters()) == sum(sizes[:depth])
    reach = {task: reached(trunk, task) for task in TASKS}
    assert reach["age"] & reach["type"] == set(trunk.shared_parameters()) == set.intersection(*reach.values())
    assert set.union(*reach.values()) == set(trunk.parameters())
    assert all(sum(p.numel() for p in parameters) == sum(sizes) for parameters in reach.values())


def test_the_copies_start_alike_and_go_apart(encoder):
    trunk = trunk_of(encoder, "bottom")
    features = trunk({"row": torch.randn(2, 4)}, TASKS, {}).features
    torch.testing.assert_close(features["age"].values, features["type"].values)
    features["age"].values.sum().backward()
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)
    features = trunk({"row": torch.randn(2, 4)}, TASKS, {}).features
    assert not torch.allclose(features["age"].values, features["type"].values)
    torch.testing.assert_close(features["values"].values, features["type"].values)


def test_the_whole_trunk_computes_what_the_encoder_does(encoder):
    inputs = torch.randn(5, 4)
    expected = encoder(inputs).values
    for share_until in (None, "middle", 0):
        for features in trunk_of(encoder, share_until)({"row": inputs}, TASKS, {}).features.values():
            torch.testing.assert_close(features.values, expected)


@pytest.mark.parametrize("share_until", [None, "bottom", 0])
def test_a_task_gets_its_rows_alone(encoder, share_until):
    trunk = trunk_of(encoder, share_until)
    inputs = torch.randn(5, 4)
    rows = {"type": torch.tensor([3, 1]), "values": None}
    features = trunk({"row": inputs}, TASKS, rows).features
    torch.testing.assert_close(features["type"].values, features["age"].values[[3, 1]])
    assert len(features["values"].values) == len(features["age"].values) == 5


@pytest.mark.parametrize("share_until", [0, 1, 2, 3])
def test_stages_with_weights_in_common_keep_them_within_a_task(share_until):
    class Tied(Encoder):
        """Three stages with one weight, as ALBERT's layers."""

        modality = "tabular"

        def __init__(self):
            layer = nn.Linear(4, 4)
            super().__init__({f"layer{n}": Stage(layer, FeatureShape("vector", 4)) for n in range(3)})

    trunk = trunk_of(Tied(), share_until)
    layers = {task: [] for task in TASKS}
    for part in trunk.parts():
        for task in part.tasks:
            layers[task].append(part.module.module.weight)
    for weights in layers.values():
        assert all(weight is weights[0] for weight in weights[:share_until])
        assert all(weight is weights[-1] for weight in weights[share_until:])
    apart = {id(weights[-1]) for weights in layers.values()}
    assert len(apart) == (1 if share_until == 3 else 3)
    common = {id(weights[0]) for weights in layers.values()} if share_until else set()
    assert share_until == 3 or not common & apart
    copies = list(trunk.parameters())
    assert len(copies) == 2 * (len(apart | common))


def test_nothing_is_computed_for_tasks_that_are_not_wanted(encoder):
    trunk = trunk_of(encoder, "bottom")
    calls = []
    for task in TASKS:
        trunk.levels["middle"][task].register_forward_hook(lambda *_, task=task: calls.append(task))
    assert list(trunk({"row": torch.ones(1, 4)}, ["type"], {}).features) == ["type"]
    assert calls == ["type"]


def test_a_task_alone_shares_nothing(encoder):
    assert trunk_of(encoder, None, ["only"]).shared_parameters() == []


def test_stages_are_listed_with_their_depth(encoder):
    trunk = trunk_of(encoder, "bottom")
    found = [(depth, total) for depth, total, _ in trunk.stages()]
    assert found == [(0, 3)] + [(1, 3)] * 3 + [(2, 3)] * 3
    listed = {p for _, _, stage in trunk.stages() for p in stage.parameters()}
    assert listed == set(trunk.parameters())
    assert [trunk.depth_of(stage) for stage in (None, "middle", -1, 0)] == [3, 2, 2, 0]


def test_every_task_has_the_encoders_shape(encoder):
    trunk = trunk_of(encoder, 1)
    assert trunk.shape("age") == encoder.shape
    assert trunk.shape("age").width == 3


def test_rows_are_selected_from_features_and_from_raw_inputs():
    rows = torch.tensor([2, 0])
    tensor, mask = torch.arange(6).reshape(3, 2), torch.eye(3, dtype=torch.bool)
    assert select_rows(tensor, rows).tolist() == [[4, 5], [0, 1]]
    assert select_rows({"ids": tensor}, rows)["ids"].tolist() == [[4, 5], [0, 1]]
    selected = select_rows(Features(tensor, mask), rows)
    assert selected.values.tolist() == [[4, 5], [0, 1]]
    assert torch.equal(selected.mask, mask[rows])
    assert select_rows(tensor, None) is tensor


@pytest.mark.parametrize(
    ("share_until", "message"),
    [
        ("midle", r"no stage 'midle'.*Did you mean 'middle'\?.*'bottom', 'middle', 'top'"),
        (4, "4 stages were asked for, but the encoder has 3"),
        (-4, "-4 stages were asked for"),
    ],
)
def test_a_stage_that_does_not_exist_is_named_with_the_allowed_ones(encoder, share_until, message):
    with pytest.raises(UserError, match=message):
        trunk_of(encoder, share_until)


def test_several_inputs_are_refused(encoder):
    with pytest.raises(UserError, match="over one encoder, but 2 were given: 'row', 'picture'"):
        sharing.Hard().build({"row": encoder, "picture": encoder}, TASKS)
