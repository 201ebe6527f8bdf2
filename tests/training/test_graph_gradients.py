"""Balanced gradients of graph networks: nodes are no rows, and yet all numbers are those of separate passes."""

import pytest
import torch
from torch import nn

from polytask import balancing, encoders, sharing
from polytask.data.batch import Batch
from polytask.model import MultiTaskModel
from polytask.shapes import GraphShape
from polytask.tasks import Classification, Regression
from polytask.training.balanced_step import BalancedStep

from ..encoders.cases import graphs

SHAPE = GraphShape((5, 3), (3, 2))
TASKS = ("a", "b", "c")
MASKS = {
    "disjoint": [[1, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1, 0]],
    "some": [[1, 1, 0, 1, 0, 1, 1], [0, 1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]],
    "one-each": [[0, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]],
}
SIZES = {
    "mixed": [3, 1, 5, 2, 1, 4, 2],
    # As many nodes as rows: nothing in the shapes tells them apart.
    "atoms": [1] * 7,
    "as-many-nodes": [2, 1, 0, 2, 1, 0, 1],
}


def model(share_until, **parameters):
    torch.manual_seed(0)
    tasks = [Classification("a", classes=3), Regression("b", mean=[0.0], std=[1.0]), Classification("c", classes=2)]
    encoder = encoders.create("gin", **{"dim": 6, "depth": 2, "dropout": 0.0, **parameters}, shape=SHAPE)
    return MultiTaskModel({"graph": encoder}, tasks, sharing.Hard(share_until=share_until)).double()


def batch(masks, sizes):
    draw = torch.Generator().manual_seed(1)
    found = {task: torch.tensor(mask).bool() for task, mask in zip(TASKS, masks, strict=True)}
    targets = {
        "a": torch.randint(3, (7,), generator=draw),
        "b": torch.randn(7, 1, generator=draw, dtype=torch.float64),
        "c": torch.randint(2, (7,), generator=draw),
    }
    found["b"] = found["b"].unsqueeze(1)
    return Batch.of({"graph": graphs(sizes, SHAPE, draw)}, targets, found, torch.arange(7))


@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("share_until", [None, 1, -1])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("masks", MASKS)
def test_upgrad_gives_what_separate_backward_passes_give(masks, sizes, share_until, normalization):
    rows = batch(MASKS[masks], SIZES[sizes])
    network = model(share_until, normalization=normalization)
    shared = network.shared_parameters()
    assert shared
    losses = network.losses(rows)
    assert list(losses) == list(TASKS)
    gradients = []
    for loss in losses.values():
        found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        pairs = zip(shared, found, strict=True)
        gradients.append(torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in pairs]))
    jacobian = torch.stack(gradients)
    network = model(share_until, normalization=normalization)
    shared = network.shared_parameters()
    balancer = balancing.create("upgrad")
    balancer.prepare(network.task_names)
    BalancedStep(network, balancer, dict.fromkeys(TASKS, 1.0)).backward([rows], shared, None)
    torch.testing.assert_close(balancer.last.gramian.double(), jacobian @ jacobian.T, rtol=1e-6, atol=1e-9)
    weights = balancing.create("upgrad").weights(jacobian @ jacobian.T)
    expected = weights @ jacobian
    found = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in shared])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["equal", "upgrad"])
def test_graphs_without_a_label_change_no_gradient(name):
    """Without batch normalisation, which looks at all rows of a batch."""
    masks = [[1, 0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 1, 0]]
    rows = batch(masks, SIZES["mixed"])
    found = []
    for given in (rows, rows.part(torch.tensor([0, 3, 5]))):
        network = model(None, normalization="layer")
        balancer = balancing.create(name)
        balancer.prepare(network.task_names)
        BalancedStep(network, balancer, dict.fromkeys(TASKS, 1.0)).backward([given], network.shared_parameters(), None)
        assert all(parameter.grad is not None for parameter in network.parameters())
        found.append(nn.utils.parameters_to_vector([parameter.grad for parameter in network.parameters()]))
    torch.testing.assert_close(found[0], found[1])
