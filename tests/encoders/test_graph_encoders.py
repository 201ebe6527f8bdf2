"""Graph encoders: what they compute, and that graphs stay apart."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask import encoders
from polytask.encoders.graph_stages import FeatureEmbedding
from polytask.errors import UserError
from polytask.graphs import Graphs

from . import cases
from .cases import ALIKE_EDGES, GRAPH, NUMBERS, codes

NAMES = ("gat", "gcn", "gin")
POOLINGS = ("mean", "sum", "max", "attention")


def random_graphs(sizes, seed):
    """Graphs of these numbers of nodes with random edges, each in both directions, and perhaps in several pieces."""
    draw = torch.Generator().manual_seed(seed)
    ends = []
    for size in sizes:
        pairs = torch.combinations(torch.arange(size)).T
        pairs = pairs[:, torch.rand(pairs.shape[1], generator=draw) < 0.5]
        ends.append(torch.cat([pairs, pairs.flip(0)], dim=1))
    edges = [pair.shape[1] for pair in ends]
    attributes = codes(sum(edges) // 2, GRAPH.edge_features, draw)
    both, start = [], 0
    for count in edges:
        own = attributes[start : start + count // 2]
        both += [own, own]
        start += count // 2
    x = codes(sum(sizes), GRAPH.node_features, draw)
    return Graphs.of(x, torch.cat(ends, dim=1), torch.cat(both), torch.tensor(sizes), torch.tensor(edges))


def built(name, **parameters):
    torch.manual_seed(0)
    encoder = encoders.create(name, **{"dim": 8, "depth": 2, **parameters}, shape=GRAPH).double().eval()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d):  # as after some training: neither 0 nor 1
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return encoder


@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_nodes_and_edges_does_not_matter(name, pooling, sizes, seed):
    graphs = random_graphs(sizes, seed)
    draw = torch.Generator().manual_seed(seed)
    order, place, start = [], torch.empty(len(graphs.x), dtype=torch.int64), 0
    for size in sizes:
        order.append(start + torch.randperm(size, generator=draw))
        start += size
    moved = torch.cat(order)
    place[moved] = torch.arange(len(moved))
    lines = torch.argsort(graphs.batch[graphs.edge_index[0]] + torch.rand(graphs.edge_index.shape[1]) * 0.5)
    shuffled = Graphs(
        graphs.x[moved],
        place[graphs.edge_index[:, lines]],
        graphs.edge_attr[lines],
        graphs.batch,
        graphs.nodes,
        graphs.edges,
    )
    encoder = built(name, pooling=pooling)
    with torch.no_grad():
        torch.testing.assert_close(encoder(shuffled).values, encoder(graphs).values)


@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_what_its_graphs_give_one_by_one(name, sizes, seed):
    graphs = random_graphs(sizes, seed)
    encoder = built(name)
    with torch.no_grad():
        alone = [encoder(graphs.select(torch.tensor([row]))).values for row in range(len(sizes))]
        torch.testing.assert_close(torch.cat(alone), encoder(graphs).values)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_see_as_far_as_there_are_layers(name):
    path = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])

    def last_node(first):
        x = torch.tensor([[first, 4], [0, 4], [0, 4], [0, 4]])
        attributes = torch.tensor([[0, 3]]).expand(6, 2)
        graphs = Graphs.of(x, path, attributes, torch.tensor([4]), torch.tensor([6]))
        features = encoder.stages["embed"](graphs)
        for number in range(1, depth + 1):
            features = encoder.stages[f"layer{number}"](features)
        return features.values[3]

    for depth, same in ((2, True), (3, False)):
        encoder = built(name, depth=depth)
        with torch.no_grad():
            assert torch.equal(last_node(0), last_node(1)) is same


def test_kinds_of_edges_matter_where_the_layers_read_them():
    graphs = random_graphs([5, 6], seed=1)
    other = Graphs(**{**vars(graphs), "edge_attr": graphs.edge_attr.flip(0)})
    for name, reads in (("gat", True), ("gcn", False), ("gin", True)):
        encoder = built(name)
        with torch.no_grad():
            assert torch.equal(encoder(graphs).values, encoder(other).values) is not reads, name


def test_gin_computes_its_formula():
    encoder = built("gin", depth=1, normalization="none", residual=False, pooling="sum")
    graphs = random_graphs([4], seed=3)
    layer = encoder.stages["layer1"]
    with torch.no_grad():
        layer.module.eps.fill_(0.25)
        h, e = encoder.stages["embed"](graphs).values, layer.edges.table(graphs.edge_attr).sum(1)
        received = torch.zeros_like(h)
        for number, (source, target) in enumerate(graphs.edge_index.T.tolist()):
            received[target] += torch.relu(h[source] + e[number])
        expected = torch.relu(layer.module.nn(1.25 * h + received)).sum(0)
        torch.testing.assert_close(encoder(graphs).values[0], expected)


@pytest.mark.parametrize("values", [3, 600])
def test_codes_become_the_sum_of_their_vectors(values):
    """Few are multiplied, many are looked up."""
    embedding = FeatureEmbedding((values, 2), 4)
    codes = torch.tensor([[0, values], [values - 1, values + 1]])
    expected = embedding.table.weight[codes].sum(1)
    torch.testing.assert_close(embedding(codes, None), expected)
    embedding(codes, None).sum().backward()
    assert embedding.table.weight.grad.sum(1).nonzero().flatten().tolist() == [0, values - 1, values, values + 1]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gin", {"depth": 0}, "'depth' must be at least 1"),
        ("gcn", {"dropout": 1.0}, "'dropout' must be"),
        ("gin", {"normalization": "instance"}, "'normalization' must be one of"),
        ("gcn", {"pooling": "first"}, "'pooling' must be one of"),
        ("gat", {"dim": 10, "heads": 4}, r"'dim' \(10\) must be a multiple of 'heads' \(4\)"),
        ("gat", {"heads": 0}, "'heads' must be at least 1"),
    ],
)
def test_parameters_out_of_their_limits_are_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        encoders.create(name, **parameters, shape=ALIKE_EDGES)


def test_numbers_are_mapped_and_added_to_the_vectors_of_codes():
    embedding = FeatureEmbedding((3,), 4, numbers=2)
    codes, numbers = torch.tensor([[0], [2]]), torch.tensor([[1.0, 0.0], [0.5, -1.0]])
    expected = embedding.table.weight[codes[:, 0]] + numbers @ embedding.linear.weight.T
    torch.testing.assert_close(embedding(codes, numbers), expected)
    alone = FeatureEmbedding((), 4, numbers=2)
    found = alone(torch.empty(2, 0, dtype=torch.int64), numbers)
    torch.testing.assert_close(found, numbers @ alone.linear.weight.T + alone.linear.bias)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_nodes_matter_and_those_of_edges_where_they_are_read(name):
    torch.manual_seed(0)
    encoder = encoders.create(name, dim=8, depth=1, shape=NUMBERS).eval()
    graphs = cases.graphs([4, 5], NUMBERS, torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = encoder(graphs).values
        assert not torch.allclose(encoder(replace(graphs, numbers=graphs.numbers.flip(0))).values, whole)
        other = encoder(replace(graphs, edge_numbers=graphs.edge_numbers.flip(0))).values
        assert torch.allclose(other, whole) is (name == "gcn")
