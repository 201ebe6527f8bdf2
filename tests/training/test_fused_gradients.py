"""Balanced gradients where rows have different inputs: all numbers are those of separate passes."""

import pytest
import torch
from torch import nn

from polytask import balancing, encoders, fusion, sharing
from polytask.data.batch import Batch
from polytask.model import MultiTaskModel
from polytask.shapes import ImageShape, TabularShape, TextShape
from polytask.tasks import Classification, Regression
from polytask.training.balanced_step import BalancedStep

from ..encoders import cases
from ..fusion.cases import partial

TASKS = ("a", "b", "c")
ROWS = 6
HELD = {
    # Each task's rows have an input of their own.
    "apart": {"picture": (0, 3), "text": (1, 4), "row": (2, 5)},
    "some": {"picture": (0, 1, 2, 3), "text": (1, 2, 4, 5), "row": (0, 4, 5)},
    "all": None,
}
MASKS = {
    "disjoint": [[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1]],
    "overlapping": [[1, 1, 0, 1, 0, 1], [0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1]],
}
FUSIONS = {
    "concat": {"width": 5},
    "attention": {"dim": 8, "hidden": 3},
    "perceiver": {"dim": 8, "latents": 2, "depth": 1, "heads": 2, "dropout": 0.0},
    "shared_transformer": {"dim": 8, "depth": 1, "heads": 2, "dropout": 0.0},
}


def model(kind, share_until):
    torch.manual_seed(0)
    tasks = [Classification("a", classes=3), Regression("b", mean=[0.0], std=[1.0]), Classification("c", classes=2)]
    built = {
        "picture": encoders.CNN(width=3, depth=1, grid=2, normalization="none", shape=ImageShape(1, 6, 6)),
        "text": encoders.Transformer(
            dim=8, depth=1, heads=2, dropout=0.0, shape=TextShape(cases.TEXT.vocabulary, cases.TEXT.length, 1)
        ),
        "row": encoders.MLP(width=5, depth=1, shape=TabularShape(numeric=3)),
    }
    made = fusion.create(kind, **FUSIONS[kind])
    return MultiTaskModel(built, tasks, sharing.Hard(share_until=share_until), fusion=made).double()


def batch(masks, held):
    draw = torch.Generator().manual_seed(1)
    found = {task: torch.tensor(mask).bool() for task, mask in zip(TASKS, masks, strict=True)}
    targets = {
        "a": torch.randint(3, (ROWS,), generator=draw),
        "b": torch.randn(ROWS, 1, generator=draw, dtype=torch.float64),
        "c": torch.randint(2, (ROWS,), generator=draw),
    }
    found["b"] = found["b"].unsqueeze(1)
    numbers = torch.randn(ROWS, 3, generator=draw, dtype=torch.float64)
    inputs = {
        "picture": torch.randn(ROWS, 1, 6, 6, generator=draw, dtype=torch.float64),
        "text": cases.texts([3, 5, 1, 4, 2, 5], draw),
        "row": {"numeric": numbers, "categorical": torch.zeros(ROWS, 0, dtype=torch.int64)},
    }
    if held is not None:
        inputs = {name: partial(value, held[name], ROWS) for name, value in inputs.items()}
    return Batch.of(inputs, targets, found, torch.arange(ROWS))


@pytest.mark.parametrize("share_until", [None, "encoders"])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("kind", FUSIONS)
def test_upgrad_gives_what_separate_backward_passes_give(kind, held, masks, share_until):
    rows = batch(MASKS[masks], HELD[held])
    network = model(kind, share_until)
    shared = network.shared_parameters()
    losses = network.losses(rows)
    assert list(losses) == list(TASKS)
    gradients = []
    for loss in losses.values():
        found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        pairs = zip(shared, found, strict=True)
        gradients.append(torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in pairs]))
    jacobian = torch.stack(gradients)
    network = model(kind, share_until)
    shared = network.shared_parameters()
    balancer = balancing.create("upgrad")
    balancer.prepare(network.task_names)
    BalancedStep(network, balancer, dict.fromkeys(TASKS, 1.0)).backward([rows], shared, None)
    torch.testing.assert_close(balancer.last.gramian.double(), jacobian @ jacobian.T, rtol=1e-6, atol=1e-9)
    weights = balancing.create("upgrad").weights(jacobian @ jacobian.T)
    found = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in shared])
    torch.testing.assert_close(found, weights @ jacobian, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", FUSIONS)
def test_tasks_whose_rows_have_other_inputs_meet_in_the_fusion_alone(kind):
    rows, network = batch(MASKS["disjoint"], HELD["apart"]), model(kind, None)
    first, *behind = network.trunk.parts()
    by_task = {}
    for task, loss in network.losses(rows).items():
        parameters = list(first.module.parameters())
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        by_task[task] = {p for p, g in zip(parameters, found, strict=True) if g is not None and g.any()}
        later = [p for part in behind for p in part.module.parameters()]
        assert all(g is not None for g in torch.autograd.grad(loss, later, retain_graph=True))
    chains = {task: set(first.module.module[name].parameters()) for task, name in INPUT_OF.items()}
    for task, own in chains.items():
        assert by_task[task] & own
        assert not any(by_task[task] & chains[other] for other in TASKS if other != task)


INPUT_OF = {"a": "picture", "b": "text", "c": "row"}


def test_rows_without_a_label_change_no_gradient():
    masks = [[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]
    rows = batch(masks, HELD["some"])
    found = []
    for given in (rows, rows.part(torch.tensor([0, 3]))):
        network = model("shared_transformer", None)
        balancer = balancing.create("equal")
        balancer.prepare(network.task_names)
        BalancedStep(network, balancer, dict.fromkeys(TASKS, 1.0)).backward([given], network.shared_parameters(), None)
        pairs = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
        found.append(nn.utils.parameters_to_vector(pairs))
    torch.testing.assert_close(found[0], found[1])
