"""Tasks with one answer for each node of a graph."""

import pytest
import torch
import torch.nn.functional as F

from polytask.data.batch import Batch
from polytask.encoders import GIN
from polytask.features import Features, FeatureShape
from polytask.graphs import Graphs
from polytask.model import MultiTaskModel
from polytask.sequences import Sequences
from polytask.shapes import GraphShape
from polytask.tasks import NodeClassification, NodeRegression, Regression

NODES = [3, 1, 2]


def graphs():
    ends = torch.tensor([[0, 1, 1, 2, 0, 1], [1, 0, 2, 1, 1, 0]])
    nodes, edges = torch.tensor(NODES), torch.tensor([4, 0, 2])
    numbers = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    empty = torch.empty(6, 0, dtype=torch.int64)
    return Graphs.of(empty, ends, empty, nodes, edges, numbers=numbers)


def sequences(rows, kind):
    blank = -1 if kind is torch.int64 else torch.nan
    longest = max(map(len, rows))
    values = torch.tensor([row + [blank] * (longest - len(row)) for row in rows], dtype=kind)
    return Sequences(values, torch.tensor([len(row) for row in rows]))


def test_the_head_gives_each_node_its_own_output():
    task = NodeClassification("kind", classes=["a", "b"])
    head = task.make_head(FeatureShape("nodes", 4))
    given, values = graphs(), torch.randn(6, 4)
    output = head(Features(values, None, given))
    assert output.lengths.tolist() == NODES
    expected = head.layers(values)
    torch.testing.assert_close(output.values[output.mask], expected)
    assert not output.values[~output.mask].any()


@pytest.mark.parametrize("weights", [None, {"b": 3.0}])
def test_the_loss_is_a_mean_over_labelled_nodes(weights):
    task = NodeClassification("kind", classes=["a", "b"], class_weights=weights)
    output = Sequences(torch.randn(3, 3, 2), torch.tensor(NODES))
    target = sequences([[0, -1, 1], [1], [-1, 0]], torch.int64)
    logits = torch.stack([output.values[0, 0], output.values[0, 2], output.values[1, 0], output.values[2, 1]])
    labels, weight = torch.tensor([0, 1, 1, 0]), None if weights is None else torch.tensor([1.0, 3.0])
    torch.testing.assert_close(task.loss(output, target, None), F.cross_entropy(logits, labels, weight))
    first = torch.tensor([True, False, False])
    expected = F.cross_entropy(logits[:2], labels[:2], weight)
    torch.testing.assert_close(task.loss(output, target, first), expected)


def test_numbers_are_learned_standardised_and_decoded_in_their_units():
    task = NodeRegression("heat", mean=[10.0], std=[2.0])
    output = Sequences(torch.tensor([[[0.0], [1.0], [9.0]], [[-1.0], [9.0], [9.0]]]), torch.tensor([2, 1]))
    target = sequences([[10.0, 14.0], [torch.nan]], torch.float32)
    torch.testing.assert_close(task.loss(output, target, torch.tensor([True, False])), torch.tensor(0.5))
    assert task.decode(output) == {"": [[10.0, 12.0], [8.0]]}
    output.values.requires_grad_()
    task.loss(output, target, torch.tensor([True, False])).backward()
    assert output.values.grad.isfinite().all()


def test_metrics_count_nodes():
    task = NodeClassification("kind", classes=["a", "b"], counts=[3, 1])
    metrics = task.metrics()
    output = Sequences(torch.tensor([[[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]], [[2.0, 0.0]] * 3]), torch.tensor([3, 1]))
    target = sequences([[0, 1, 1], [0]], torch.int64)
    task.update_metrics(metrics, output, target, torch.tensor([True, True]))
    assert float(metrics.compute()["accuracy"]) == 0.75
    metrics.reset()
    task.update_metrics(metrics, task.baseline(2), target, torch.tensor([True, False]))
    assert float(metrics.compute()["accuracy"]) == pytest.approx(1 / 3)
    assert task.decode(output) == {"": [["a", "b", "a"], ["a"]]}
    numbers = NodeRegression("heat", mean=[10.0], std=[2.0])
    metrics = numbers.metrics()
    numbers.update_metrics(metrics, numbers.baseline(1), sequences([[10.0, 14.0]], torch.float32), torch.tensor([True]))
    assert float(metrics.compute()["mae"]) == 2.0


def test_they_stand_beside_tasks_of_whole_graphs():
    torch.manual_seed(0)
    tasks = [NodeClassification("kind", classes=["a", "b"]), NodeRegression("heat"), Regression("size")]
    encoder = GIN(dim=8, depth=2, dropout=0.0, normalization="layer", shape=GraphShape(node_numbers=2))
    model = MultiTaskModel({"graph": encoder}, tasks)
    targets = {
        "kind": sequences([[0, 1, -1], [1], [1, 1]], torch.int64),
        "heat": sequences([[1.0, 2.0, 3.0], [torch.nan], [0.0, torch.nan]], torch.float32),
        "size": torch.tensor([[3.0], [1.0], [2.0]]),
    }
    masks = {"kind": torch.ones(3, dtype=torch.bool), "heat": torch.tensor([True, False, True])}
    batch = Batch.of(
        {"graph": graphs()}, targets, {**masks, "size": torch.ones(3, 1, dtype=torch.bool)}, torch.arange(3)
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    first = {name: loss.item() for name, loss in model.losses(batch).items()}
    for _ in range(60):
        optimizer.zero_grad()
        sum(model.losses(batch).values()).backward()
        optimizer.step()
    last = {name: loss.item() for name, loss in model.losses(batch).items()}
    assert set(last) == {"kind", "heat", "size"}
    assert all(last[name] < 0.3 * first[name] for name in last), (first, last)
    part = batch.part(torch.tensor([2, 1]))
    with torch.no_grad():
        whole, some = model(batch.inputs)["kind"], model(part.inputs)["kind"]
    torch.testing.assert_close(some.values[0, :2], whole.values[2, :2])
