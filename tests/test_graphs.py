"""Graphs in a batch: selected, moved, averaged."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.graphs import Graphs

SIZES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=6)


def graphs_of(sizes, seed=0):
    """Random graphs of these numbers of nodes and edges (of none where there is no node), with numbers."""
    draw = torch.Generator().manual_seed(seed)
    nodes = torch.tensor([size for size, _ in sizes])
    edges = torch.tensor([count if size else 0 for size, count in sizes])
    ends = [torch.randint(max(1, size), (2, int(e)), generator=draw) for (size, _), e in zip(sizes, edges, strict=True)]
    total, lines = int(nodes.sum()), int(edges.sum())
    x, attributes = torch.arange(3 * total).view(total, 3), torch.arange(2 * lines).view(lines, 2)
    return Graphs.of(
        x,
        torch.cat(ends, dim=1),
        attributes,
        nodes,
        edges,
        numbers=x[:, :1] + 0.5,
        edge_numbers=attributes[:, 1:] + 0.25,
    )


def apart(graphs):
    """Each graph by itself, cut out one after the other: nodes, edges with ends counted from 0, their features."""
    found, node, edge = [], 0, 0
    for size, count in zip(graphs.nodes.tolist(), graphs.edges.tolist(), strict=True):
        own = slice(edge, edge + count)
        ends = (graphs.edge_index[:, own] - node).tolist()
        values = graphs.x[node : node + size], graphs.numbers[node : node + size]
        values += graphs.edge_attr[own], graphs.edge_numbers[own]
        found.append((ends, *(part.tolist() for part in values)))
        node, edge = node + size, edge + count
    assert (node, edge) == (len(graphs.x), len(graphs.edge_attr))
    return found


@settings(deadline=None)
@given(sizes=SIZES, data=st.data())
def test_any_graphs_in_any_order_can_be_selected(sizes, data):
    whole = graphs_of(sizes)
    assert len(whole) == len(sizes)
    rows = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=8))
    index = torch.tensor(rows, dtype=torch.int64)
    part = whole.select(index)
    everything = apart(whole)
    assert apart(part) == [everything[row] for row in rows]
    assert part.batch.tolist() == [place for place, row in enumerate(rows) for _ in range(sizes[row][0])]
    values = torch.arange(len(whole.x)) + 0.5
    again, chosen = whole.select_with(values, index)
    assert torch.equal(again.edge_index, part.edge_index)
    assert chosen.tolist() == [value for row in rows for value in values[whole.batch == row].tolist()]


@settings(deadline=None)
@given(sizes=SIZES)
def test_means_of_nodes_and_values_at_nodes(sizes):
    graphs = graphs_of(sizes)
    values = torch.randn(len(graphs.x), 2, dtype=torch.float64)
    means = graphs.mean(values)
    for row, (size, _) in enumerate(sizes):
        own = values[graphs.batch == row]
        torch.testing.assert_close(means[row], own.mean(0) if size else torch.zeros(2, dtype=torch.float64))
    assert torch.equal(graphs.to_nodes(means), means[graphs.batch])
    assert torch.equal(graphs.to_nodes(means[:1]), means[:1].expand(len(values), 2))


def test_all_tensors_are_mapped():
    graphs = graphs_of([(2, 3), (1, 0)])
    moved = graphs.map(lambda tensor: tensor + 1)
    for name, tensor in vars(graphs).items():
        assert torch.equal(getattr(moved, name), tensor + 1), name


def test_graphs_without_numbers_have_none():
    graphs = graphs_of([(2, 3), (1, 0)])
    plain = Graphs.of(graphs.x, graphs.edge_index, graphs.edge_attr, graphs.nodes, graphs.edges)
    for found in (plain, plain.map(torch.clone), plain.select(torch.tensor([1, 0]))):
        assert found.numbers is None
        assert found.edge_numbers is None
