import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from polytask.balancing.graph import Graph, leaf_behind
from polytask.errors import UserError


def test_shared_and_own_parameters_are_told_apart():
    trunk, one, two = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(2, 1)
    features = trunk(torch.ones(3, 2))
    found = Graph([one(features).sum(), two(features).sum()])
    assert set(found.shared()) == set(trunk.parameters())
    assert [set(found.own(i)) for i in range(2)] == [set(one.parameters()), set(two.parameters())]


def test_what_two_of_three_losses_reach_is_shared():
    a, b, c = (nn.Parameter(torch.ones(())) for _ in range(3))
    found = Graph([a * b, b * c, c * 2 + a * 0])
    assert set(found.shared()) == {a, b, c}
    found = Graph([a * b, b * 3, c * 2])
    assert set(found.shared()) == {b}
    assert [found.own(i) for i in range(3)] == [[a], [], [c]]


def test_a_parameter_that_one_loss_reaches_twice_is_its_own():
    a = nn.Parameter(torch.ones(()))
    assert Graph([a * a + a]).own(0) == [a]


def test_frozen_parameters_constants_and_unused_parameters_are_reached_by_none():
    frozen, used = nn.Parameter(torch.ones(()), requires_grad=False), nn.Parameter(torch.ones(()))
    found = Graph([frozen * used, torch.tensor(1.0), frozen * 2])
    assert (found.shared(), [found.own(i) for i in range(3)]) == ((), [[used], [], []])


def test_a_loss_that_is_itself_a_parameter_reaches_itself():
    a = nn.Parameter(torch.ones(()))
    assert Graph([a, a * 2]).shared() == (a,)


def test_a_node_that_a_later_loss_enters_half_way_is_followed_to_its_leaves():
    a, b = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    middle = (a * 2).exp()
    found = Graph([(middle * b).sin(), middle.cos()])
    assert set(found.shared()) == {a}
    assert [found.own(i) for i in range(2)] == [[b], []]


def test_long_graphs_do_not_exhaust_the_stack():
    a = nn.Parameter(torch.ones(()))
    x = a
    for _ in range(5000):
        x = x + 1
    assert Graph([x, x * 2]).shared() == (a,)


def test_the_edges_into_what_is_shared_are_found():
    trunk, one, two = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(2, 1)
    features = trunk(torch.ones(3, 2))
    graph = Graph([one(features).sum(), two(features).sum()])
    crossings = graph.crossings(trunk.parameters())
    assert [(c.task, c.node.name(), c.slot) for c in crossings] == [(0, "AddmmBackward0", 1), (1, "AddmmBackward0", 1)]
    assert {c.into.node for c in crossings} == {features.grad_fn}


def test_with_one_loss_the_edges_lead_to_the_shared_parameters():
    trunk, head = nn.Linear(2, 2), nn.Linear(2, 1)
    crossings = Graph([head(trunk(torch.ones(3, 2))).sum()]).crossings(trunk.parameters())
    assert {c.into.node.variable if hasattr(c.into.node, "variable") else None for c in crossings} >= {trunk.bias}


def test_a_loss_that_another_is_made_of_is_an_edge_itself():
    a = nn.Parameter(torch.ones(()))
    first = (a * 2).exp()
    crossings = Graph([first, first * 3]).crossings([])
    assert [(c.task, c.node is None) for c in crossings] == [(0, True), (1, False)]


def test_parameters_are_seen_through_casts_and_transpositions():
    weight = nn.Parameter(torch.ones(2, 3))
    assert leaf_behind(weight.t().double().grad_fn) is weight
    assert leaf_behind((weight * 1).grad_fn) is None


def test_re_entrant_checkpointing_is_refused_because_it_hides_parameters():
    layer = nn.Linear(2, 2)
    hidden = checkpoint(layer, torch.ones(1, 2, requires_grad=True), use_reentrant=True)
    with pytest.raises(UserError, match="use_reentrant=False"):
        Graph([hidden.sum(), hidden.mean()])
