import warnings

import pytest
import torch
from torch import nn

from polytask import balancing
from polytask.balancing import batched
from polytask.balancing.batched import batched_gradients
from polytask.balancing.gradients import plan, task_gradients
from polytask.balancing.workspace import Workspace
from polytask.errors import UserError


class Trunk(nn.Module):
    """All kinds of nodes that passes of several tasks go through, with weights much larger than a batch of 2."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 16)
        self.first, self.second, self.last = nn.Linear(24, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.normalize = nn.LayerNorm(64)
        self.scale = nn.Parameter(torch.ones(64))
        self.hook = None

    def forward(self, rows, numbers):
        hidden = self.normalize(self.first(torch.cat([rows, self.embed(numbers)], dim=1))).relu()
        if self.hook is not None:
            hidden.register_hook(self.hook)
        hidden = torch.dropout(hidden + self.second(hidden).tanh() / 2, 0.2, train=True)
        return nn.functional.gelu(self.last(hidden)) * self.scale


TASKS = 6


@pytest.fixture
def network():
    torch.manual_seed(0)
    trunk, heads = Trunk().double(), nn.ModuleList(nn.Linear(64, 1) for _ in range(TASKS)).double()
    rows, numbers = torch.randn(2, 8, dtype=torch.float64), torch.tensor([1, 3])

    def losses():
        features = trunk(rows, numbers)
        return [head(features).square().mean() for head in heads]

    return trunk, heads, losses


def measured(network, **options):
    trunk, _, losses = network
    torch.manual_seed(1)
    values = losses()
    planned = plan(values, trunk.parameters())
    return batched_gradients(planned, values, Workspace(), **options), planned, values


def test_several_tasks_in_a_pass_give_what_passes_one_by_one_give(network):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns where it would loop within.
        found, planned, losses = measured(network, keep_graph=True)
    expected = task_gradients(planned, losses, keep_graph=True)
    torch.testing.assert_close(found.gramian(), expected.gramian())
    weights = torch.arange(1.0, TASKS + 1, dtype=torch.float64)
    modules = nn.ModuleList(network[:2])
    results = []
    for gradients in (found, expected):
        modules.zero_grad()
        gradients.accumulate(weights)
        results.append([parameter.grad.clone() for parameter in modules.parameters()])
    torch.testing.assert_close(*results)


def test_there_can_be_more_passes_than_one(network, monkeypatch):
    expected, *_ = measured(network)
    monkeypatch.setattr(batched, "_ROWS", 8)  # Four tasks, then two.
    found, *_ = measured(network)
    torch.testing.assert_close(found.gramian(), expected.gramian())


def test_the_graph_is_used_up_unless_it_is_to_be_kept(network):
    _, planned, losses = measured(network)
    with pytest.raises(UserError, match="used up"):
        plan(losses, planned.shared)


def test_a_hook_that_works_on_stacked_gradients_is_heeded(network):
    network[0].hook = lambda gradient: gradient.clamp(-1e-3, 1e-3) * 3
    found, planned, losses = measured(network, keep_graph=True)
    torch.testing.assert_close(found.gramian(), task_gradients(planned, losses).gramian())


def test_a_hook_that_looks_at_values_has_passes_one_by_one(network):
    seen = []
    network[0].hook = lambda gradient: seen.append(gradient.norm().item())
    assert measured(network, keep_graph=True)[0] is None
    assert not seen
    balancing.create("mgda").backward(network[2](), network[0].parameters())
    assert len(seen) == TASKS


def test_it_is_left_where_it_does_not_pay_or_cannot_be(network):
    trunk, heads, losses = network
    values = losses()
    assert batched_gradients(plan(values[:1], trunk.parameters()), values[:1], Workspace()) is None
    # Some that several tasks reach are not called shared.
    assert batched_gradients(plan(values, trunk.last.parameters()), values, Workspace()) is None
    # No rule for several gradients at once.
    values = [torch.linalg.vector_norm(trunk.first.weight, dim=1).sum() + loss for loss in losses()]
    assert batched_gradients(plan(values, trunk.parameters()), values, Workspace()) is None
    # More rows than the widths are worth.
    features = trunk(torch.randn(200, 8, dtype=torch.float64), torch.zeros(200, dtype=torch.long))
    values = [head(features).mean() for head in heads]
    assert batched_gradients(plan(values, trunk.parameters()), values, Workspace()) is None
