import pytest
import torch
from torch.nn import functional as F

from polytask import sharing
from polytask.errors import UserError

from ..encoders.cases import CASES
from .fitting import Dense, columns, error_of

TASKS = ["age", "type", "values"]
TRUNK = 4 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3


def trunk_of(encoder, tasks=TASKS, **parameters):
    return sharing.Hypernetwork(**parameters).build({"row": encoder}, tasks)


def moved(trunk):
    with torch.no_grad():
        for parameter in trunk.generator.weights.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return trunk


def adapted(trunk, task, stage, rows, bottleneck):
    """The formula, for rows of features."""
    generator, width = trunk.generator, rows.shape[-1]
    given = torch.cat([trunk.embeddings[task].vector, generator.stages[stage].vector])
    first, _, second, norm = generator.mix
    read = second.weight @ (first.weight @ given + first.bias).relu() + second.bias
    read = (read - read.mean()) / (read.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
    made = generator.weights[str(width)].weight @ read + generator.weights[str(width)].bias
    size = bottleneck * width
    down, made = made[:size].view(bottleneck, width), made[size:]
    down_bias, made = made[:bottleneck], made[bottleneck:]
    up, up_bias = made[:size].view(width, bottleneck), made[size:]
    assert len(up_bias) == width
    return rows + F.gelu(rows @ down.T + down_bias) @ up.T + up_bias


def test_the_start_is_hard_sharing(encoder):
    inputs = torch.randn(5, 4)
    expected = encoder(inputs).values
    for features in trunk_of(encoder)({"row": inputs}, TASKS, {}).features.values():
        torch.testing.assert_close(features.values, expected, rtol=0, atol=0)


@pytest.mark.parametrize("after", ["all", ["bottom"], ["middle", "top"]])
def test_adapters_are_made_of_the_task_and_the_stage(encoder, after):
    trunk = moved(trunk_of(encoder, embedding=3, hidden=7, bottleneck=2, after=after))
    inputs = torch.randn(5, 4)
    found = trunk({"row": inputs}, TASKS, {}).features
    for task in TASKS:
        hidden = inputs
        for name, stage in encoder.stages.items():
            hidden = stage.module(hidden)
            if after == "all" or name in after:
                hidden = adapted(trunk, task, name, hidden, 2)
        torch.testing.assert_close(found[task].values, hidden)
    assert not torch.allclose(found["age"].values, found["type"].values)


def test_on_maps_an_adapter_works_at_each_position():
    case = CASES["cnn"]
    encoder = case.build().eval()
    trunk = moved(sharing.Hypernetwork(bottleneck=3, after=["conv1"]).build({"image": encoder}, TASKS)).eval()
    stages = list(encoder.stages.values())
    values = stages[0](case.inputs()).values
    features = adapted(trunk, "type", "conv1", values.permute(0, 2, 3, 1), 3).permute(0, 3, 1, 2)
    for stage in stages[1:]:
        features = stage.module(features)
    found = trunk({"image": case.inputs()}, TASKS, {}).features["type"].values
    torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_task_costs_no_more_than_its_embedding(encoder, count):
    size, hidden, bottleneck = 6, 10, 2
    trunk = trunk_of(encoder, [f"task{k}" for k in range(count)], embedding=size, hidden=hidden, bottleneck=bottleneck)
    mix = (2 * size + 1) * hidden + (hidden + 1) * size + 2 * size
    generators = sum((size + 1) * (2 * width * bottleneck + bottleneck + width) for width in (6, 5, 3))
    shared = TRUNK + 3 * size + mix + generators
    assert sum(p.numel() for p in trunk.parameters()) == shared + count * size
    assert sum(p.numel() for p in trunk.shared_parameters()) == (shared if count > 1 else 0)


def test_stages_of_one_width_have_one_generator():
    trunk = sharing.Hypernetwork().build({"row": Dense(4, 8, 8, 4)}, TASKS)
    assert list(trunk.generator.weights) == ["4", "8"]
    assert list(trunk.generator.stages) == ["embed", "layer1", "layer2", "layer3"]


def test_the_first_map_of_an_adapter_starts_with_the_variance_of_a_layer():
    torch.manual_seed(0)
    trunk = sharing.Hypernetwork(after=["layer1"]).build({"row": Dense(4, 300)}, [f"task{k}" for k in range(20)])
    downs = []
    for task in trunk.tasks:
        given = torch.cat([trunk.embeddings[task].vector, trunk.generator.stages["layer1"].vector])
        downs.append(trunk.generator.weights["300"](trunk.generator.mix(given))[: 8 * 300])
    assert torch.stack(downs).var().item() == pytest.approx(1 / 300, rel=0.1)


def test_stages_run_once_up_to_the_first_adapter_and_then_for_each_tasks_rows(encoder):
    trunk = trunk_of(encoder, after=["bottom"])
    calls = []
    for name, stage in encoder.stages.items():
        stage.register_forward_hook(lambda _, given, found, name=name: calls.append((name, len(found.values))))
    trunk({"row": torch.randn(5, 4)}, ["type", "age"], {"type": torch.tensor([4]), "age": torch.tensor([0, 2])})
    assert calls == [("bottom", 5), ("middle", 1), ("top", 1), ("middle", 2), ("top", 2)]


def test_how_alike_tasks_are_is_reported(encoder):
    trunk = trunk_of(encoder, embedding=2)
    with torch.no_grad():
        for task, vector in zip(TASKS, ([1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]), strict=True):
            trunk.embeddings[task].vector.copy_(torch.tensor(vector))
    table = trunk.learned()["task_similarity"]
    assert table.rows == table.columns == tuple(TASKS)
    torch.testing.assert_close(table.values, torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]))


def test_tasks_that_want_the_same_of_other_columns_gain():
    train, test, sizes = columns(5, 256, seed=0), columns(5, 500, seed=1), (5, 12, 12)
    scheme = sharing.Hypernetwork(embedding=5, hidden=16, bottleneck=4, after=["embed"])
    hyper = error_of(scheme, sizes, train, test, steps=200)
    hard = error_of(sharing.Hard(), sizes, train, test, steps=200)
    assert hyper < 0.7 * hard


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"embedding": 1}, "hypernetwork: embedding is 1, but must be at least 2"),
        ({"hidden": 0}, "hypernetwork: hidden is 0, but must be at least 1"),
        ({"bottleneck": -1}, "hypernetwork: bottleneck is -1, but must be at least 1"),
        ({"after": "top"}, r"hypernetwork: after must be 'all' or a list of stages, such as \[top\]"),
        ({"after": []}, "hypernetwork: after names no stage"),
        ({"after": ["bottum"]}, r"no stage 'bottum'.*Did you mean 'bottom'\?"),
    ],
)
def test_bad_parameters_are_refused(encoder, parameters, message):
    with pytest.raises(UserError, match=message):
        trunk_of(encoder, **parameters)
