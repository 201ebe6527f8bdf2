"""Tasks that read positions: what the encoder keeps for them, beside tasks that read vectors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polytask import MultiTaskModel, UserError, encoders, sharing
from polytask.balancing import UPGrad
from polytask.data.batch import Batch
from polytask.encoders import CNN, GIN, MLP, VGG, Bag, ResNet, Timm, Transformer
from polytask.features import Features, FeatureShape
from polytask.model.last_stages import ENCODERS as ENCODERS_WITH_POSITIONS
from polytask.row_values import RowTargets, join_values, spread_values
from polytask.shapes import GraphShape, ImageShape, TabularShape, TextShape
from polytask.sharing.relations import Cascade
from polytask.tasks import Classification, Regression
from polytask.training.costs import count_costs


class MapHead(nn.Module):
    """Adds up what 1 x 1 convolutions make of every level, at the size of the image."""

    def __init__(self, shape: FeatureShape, classes: int) -> None:
        super().__init__()
        widths = [*(level.width for level in shape.levels), shape.width]
        self.layers = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in widths)
        self.strides = [*(level.stride for level in shape.levels), shape.stride]

    def forward(self, features: Features) -> torch.Tensor:
        maps = [*features.levels, features.values]
        size = [side * self.strides[-1] for side in maps[-1].shape[2:]]
        parts = [F.interpolate(layer(part), size) for layer, part in zip(self.layers, maps, strict=True)]
        return torch.stack(parts).sum(0)


class Pixels(Classification):
    """A class for each pixel."""

    reads = "map"
    condenses = True

    def make_head(self, shape):
        return MapHead(shape, len(self.classes))

    def condensed(self, output):
        return output.argmax(1)


class Words(Classification):
    """A class for each token."""

    reads = "tokens"

    def make_head(self, shape):
        return WordHead(shape.width, len(self.classes))


class WordHead(nn.Linear):
    def forward(self, features):
        return super().forward(features.values).transpose(1, 2)


IMAGE = ImageShape(3, 32, 32)
ENCODERS = {
    "cnn": lambda: CNN(8, 3, shape=IMAGE),
    "resnet": lambda: ResNet(18, shape=IMAGE),
    "resnet of large images": lambda: ResNet(18, stem="imagenet", shape=IMAGE),
    "vgg": lambda: VGG(11, shape=IMAGE),
    "timm": lambda: Timm("resnet10t", shape=IMAGE),
}


def batch_of(rows=6, seed=0, size=32):
    torch.manual_seed(seed)
    targets = {"what": torch.randint(3, (rows,)), "where": torch.randint(4, (rows, size, size))}
    masks = {"what": torch.ones(rows, dtype=torch.bool), "where": torch.rand(rows, size, size) < 0.7}
    masks["what"][0] = False
    masks["where"][1] = False
    return Batch.of({"image": torch.randn(rows, 3, size, size)}, targets, masks, torch.arange(rows))


def model_of(encoder, scheme=None):
    torch.manual_seed(0)
    tasks = [Classification("what", classes=3), Pixels("where", classes=4)]
    return MultiTaskModel({"image": encoder}, tasks, scheme)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_levels_are_the_maps_of_each_size_with_their_shapes(name):
    model = model_of(ENCODERS[name]())
    shape = model.trunk.shape("where")
    features = model.trunk({"image": torch.randn(2, 3, 32, 32)}, ["where"], {}).features["where"]
    shapes = [*shape.levels, shape]
    maps = [*features.levels, features.values]
    assert [each.shape[1] for each in maps] == [each.width for each in shapes]
    assert [32 // each.shape[2] for each in maps] == [each.stride for each in shapes]
    assert len({each.stride for each in shapes}) == len(shapes) > 1, "one map of each size, the last before the next"


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_a_task_that_reads_vectors_has_the_same_ones_beside_a_task_that_reads_maps(name):
    alone = MultiTaskModel({"image": ENCODERS[name]()}, [Classification("what", classes=3)]).eval()
    both = model_of(ENCODERS[name]()).eval()
    stages = {key.removeprefix("trunk.levels."): value for key, value in both.state_dict().items()}
    for last, stage in both.end.items():
        stages |= {f"{last}.what.{key}": value for key, value in stage.state_dict().items()}
    own = alone.state_dict()
    for key in own:
        if key.startswith("trunk.levels."):
            own[key] = stages[key.removeprefix("trunk.levels.")]
    own["heads.what.weight"], own["heads.what.bias"] = both.heads["what"].weight, both.heads["what"].bias
    alone.load_state_dict(own)
    batch = batch_of()
    torch.testing.assert_close(alone(batch.inputs)["what"], both(batch.inputs)["what"])


def test_the_loss_is_the_mean_over_labelled_pixels_and_reaches_every_level():
    model, batch = model_of(CNN(8, 3, shape=IMAGE)), batch_of()
    losses = model.losses(batch)
    rows = batch.labelled["where"]
    output = model(batch.inputs, ["where"], {"where": rows})["where"]
    mask, target = batch.masks["where"][rows], batch.targets["where"][rows]
    expected = F.cross_entropy(output.permute(0, 2, 3, 1)[mask], target[mask])
    torch.testing.assert_close(losses["where"], expected)
    losses["where"].backward()
    assert all(p.grad is not None for p in model.heads["where"].parameters())
    assert all(p.grad is None for p in model.heads["what"].parameters())
    assert all(p.grad is not None for p in model.trunk.parameters())


def test_the_mean_is_over_all_labelled_pixels_of_parts_of_a_step():
    model, batch = model_of(CNN(8, 2, normalization="none", shape=IMAGE)), batch_of()
    whole = model.losses(batch)
    totals = model.totals(batch)
    parts = [model.objectives(batch.part(rows), totals).losses for rows in torch.arange(6).split(2)]
    for task, loss in whole.items():
        torch.testing.assert_close(sum(part[task] for part in parts if task in part), loss)


def test_a_gradient_method_balances_the_trunk_alone():
    model, batch = model_of(CNN(8, 2, normalization="none", shape=IMAGE)), batch_of()
    shared = model.shared_parameters()
    assert {id(p) for p in shared} == {id(p) for p in model.trunk.parameters()}
    losses = model.losses(batch)
    jacobian = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses.values()]
    flat = torch.stack([torch.cat([g.flatten() for g in grads]) for grads in jacobian])
    balancer = UPGrad()
    balancer.backward(losses, shared)
    weights = torch.tensor(list(balancer.last.weights.values()), dtype=flat.dtype)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in shared]), weights @ flat, rtol=1e-4, atol=1e-6)


def test_stages_that_make_vectors_serve_the_tasks_that_read_them():
    model = model_of(CNN(8, 2, hidden=16, shape=IMAGE))
    assert model.trunk.stage_names == ("conv1", "conv2") and list(model.end) == ["pool", "hidden"]
    parts = {part.name: part.tasks for part in model.parts()}
    assert parts["hidden"] == ("what",) and parts["conv1"] == ("what", "where")
    assert "hidden" in model.mermaid()
    counted = {id(p) for part in model.parts() for p in part.module.parameters()}
    assert counted == {id(p) for p in model.parameters()}
    costs = count_costs(model, model_of(CNN(8, 2, hidden=16, shape=IMAGE)), batch_of(2).inputs)
    end = sum(p.numel() for p in model.end.parameters()) + sum(p.numel() for p in model.heads["what"].parameters())
    assert costs.tasks["what"].own == end
    alone = MultiTaskModel({"image": CNN(8, 2, hidden=16, shape=IMAGE)}, [Pixels("where", classes=4)])
    assert len(alone.end) == 0, "nothing reads them"


def test_words_are_read_from_tokens():
    encoder = Transformer(16, 1, heads=2, shape=TextShape(50, 12))
    model = MultiTaskModel({"text": encoder}, [Words("tags", classes=5), Regression("stars")])
    ids = torch.randint(1, 50, (3, 7))
    outputs = model({"text": {"ids": ids, "mask": torch.ones(3, 7, dtype=torch.bool)}})
    assert outputs["tags"].shape == (3, 5, 7) and outputs["stars"].shape == (3, 1)


@pytest.mark.parametrize(
    ("encoder", "scheme", "message"),
    [
        (MLP(8, shape=TabularShape(4)), None, "'where' reads maps, but the encoder MLP has nothing but one vector"),
        (Bag(8, shape=TextShape(50)), None, "nothing but one vector"),
        (Transformer(8, 1, heads=2, shape=TextShape(50)), None, "the encoder Transformer of 'x' gives tokens"),
        (GIN(8, 1, shape=GraphShape([3])), None, "gives the nodes of graphs"),
        (CNN(8, 1, shape=IMAGE), sharing.MMoE(2), "scheme MMoE over the encoder CNN of 'x' gives one vector a row"),
    ],
)
def test_an_encoder_or_a_scheme_without_maps_is_refused(encoder, scheme, message):
    with pytest.raises(UserError, match=message):
        MultiTaskModel({"x": encoder}, [Classification("what", classes=3), Pixels("where", classes=4)], scheme)


def test_relations_are_between_tasks_of_one_answer_a_row():
    tasks = [Classification("what", classes=3), Pixels("where", classes=4)]
    with pytest.raises(UserError, match="'where' give one at each position"):
        MultiTaskModel({"x": CNN(8, 1, shape=IMAGE)}, tasks, relations=[Cascade(task="what", reads="where")])


class Lists(RowTargets):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def map(self, function):
        return Lists([function(row) for row in self.rows])

    def select(self, rows):
        return Lists([self.rows[row] for row in rows.tolist()])

    @classmethod
    def join(cls, parts):
        return cls([row for part in parts for row in part.rows])

    def spread(self, start, rows):
        blank = [torch.zeros(0)] * rows
        return Lists([*blank[:start], *self.rows, *blank[start + len(self.rows) :]])


def test_row_values_are_joined_spread_and_selected_as_tensors_are():
    ragged = Lists([torch.ones(2), torch.ones(3)])
    numbers = torch.tensor([5, 6])
    for values, sizes in ((ragged, [0, 2, 3, 0]), (numbers, [0, 5, 6, 0])):
        spread = spread_values(values, 1, 4)
        rows = spread.rows if isinstance(spread, Lists) else spread
        assert [len(row) if row.ndim else int(row) for row in rows] == sizes
        assert len(join_values([values, values])) == 4
    batch = Batch.of({}, {"boxes": ragged}, {"boxes": torch.tensor([True, False])}, torch.arange(2))
    moved = batch.to("cpu").part(torch.tensor([1]))
    assert len(moved.targets["boxes"].rows[0]) == 3 and not moved.has("boxes")
    assert join_values([[1], [2, 3]]) == [1, 2, 3]


@pytest.mark.parametrize(("kind", "names"), ENCODERS_WITH_POSITIONS.items())
def test_the_encoders_that_are_named_for_positions_are_there(kind, names):
    assert set(names) <= set(encoders.names())
    assert {encoders.family.get(name).modality for name in names} <= {
        "map": {"image"},
        "tokens": {"audio", "text", "sequence"},
        "nodes": {"graph"},
    }[kind]
