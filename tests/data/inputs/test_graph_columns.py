"""Graphs in the cells of a table."""

import json
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.encoded_rows import EncodedRows
from polytask.data.inputs import GraphColumnsInput
from polytask.data.readers import read_table
from polytask.data.request import Request
from polytask.data.table import Table
from polytask.errors import UserError

PATH, TRIANGLE = [[0, 1], [1, 2]], [[0, 1], [1, 2], [2, 0]]


def table_of(**columns):
    return Table.from_arrow(pa.table(columns), source="graphs.jsonl")


def fitted(table, **parameters):
    source = GraphColumnsInput(**parameters)
    source.resolve(table, ())
    source.fit(table, np.arange(len(table)), {})
    return source


def encoded(source, table, rows=None):
    rows = np.arange(len(table)) if rows is None else np.array(rows)
    return source.encode(table.take(rows), rows, table)


def graphs_of(table, **parameters):
    source = fitted(table, **parameters)
    return source.collate(encoded(source, table).values, np.arange(len(table)), None)


def test_lists_of_numbers_are_standardised_and_edges_go_both_ways():
    table = table_of(nodes=[[[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]], [[6.0, 7.0]]], edges=[PATH, []])
    source = fitted(table)
    assert (source.shape.node_features, source.shape.node_numbers) == ((), 2)
    assert not source.shape.edges_differ
    graphs = source.collate(encoded(source, table).values, np.arange(2), None)
    assert graphs.nodes.tolist() == [3, 1]
    assert graphs.edges.tolist() == [4, 0]
    assert graphs.edge_index.tolist() == [[0, 1, 1, 2], [1, 2, 0, 1]], "as they were given, then back"
    values = np.array([1.0, 2.0, 3.0, 6.0])
    expected = np.stack([(values - 3.0) / values.std(), np.zeros(4)], axis=1)
    torch.testing.assert_close(graphs.numbers, torch.tensor(expected, dtype=torch.float32))
    assert graphs.edge_numbers is None


def test_records_have_words_booleans_and_missing_values():
    nodes = [
        [{"kind": "C", "ring": True, "charge": 1.0}, {"kind": "O", "ring": False, "charge": None}],
        [{"kind": None, "ring": False, "charge": 3.0}],
    ]
    edges = [[{"source": 0, "target": 1, "bond": "double", "length": 1.5}], []]
    source = fitted(table_of(nodes=nodes, edges=edges))
    assert source.shape.node_features == (4, 4), "each: missing, unknown, and two"
    assert (source.shape.node_numbers, source.shape.edge_features, source.shape.edge_numbers) == (1, (3,), 1)
    other = table_of(
        nodes=[[{"kind": "N", "ring": True, "charge": 2.0}, *nodes[0]]],
        edges=[[{"source": 2, "target": 0, "bond": "double", "length": 1.5}]],
    )
    graphs = source.collate(encoded(source, other).values, np.arange(1), None)
    assert graphs.x.tolist() == [[1, 7], [2, 7], [3, 6]]
    assert graphs.numbers[:, 0].tolist() == [0.0, -1.0, 0.0]
    assert graphs.edge_index.tolist() == [[2, 0], [0, 2]]
    assert graphs.edge_attr.tolist() == [[2], [2]]
    assert graphs.edge_numbers.tolist() == [[0.0], [0.0]]


def test_plain_values_counts_and_a_column_of_edge_features():
    table = table_of(nodes=[["a", "b", "a"], ["b"]], edges=[PATH, []], weights=[[0.0, 2.0], []])
    source = fitted(table, edge_features="weights", directed=True)
    graphs = source.collate(encoded(source, table).values, np.arange(2), None)
    assert graphs.x[:, 0].tolist() == [2, 3, 2, 3]
    assert graphs.edge_index.tolist() == [[0, 1], [1, 2]]
    assert graphs.edge_numbers[:, 0].tolist() == [-1.0, 1.0]
    counted = graphs_of(table_of(nodes=[3, 1], edges=[PATH, []]))
    assert counted.x.tolist() == [[0]] * 4
    assert counted.edge_index.tolist() == [[0, 1, 1, 2], [1, 2, 0, 1]]


def test_a_number_can_be_a_category_and_a_word_a_number():
    table = table_of(nodes=[[[6, 1], [8, 1]], [[6, 2]]], edges=[[[0, 1]], []])
    source = fitted(table, types={"0": "category"})
    assert (source.shape.node_features, source.shape.node_numbers) == ((4,), 1)
    table = table_of(nodes=[["1", "3"]], edges=[[[0, 1]]])
    assert graphs_of(table, types={"0": "number"}).numbers.tolist() == [[-1.0], [1.0]]


@settings(deadline=None, max_examples=30)
@given(
    graphs=st.lists(
        st.integers(1, 5).flatmap(
            lambda size: st.tuples(
                st.just(size), st.sets(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=8)
            )
        ),
        min_size=1,
        max_size=5,
    )
)
def test_each_edge_goes_both_ways_once(graphs):
    edges = pa.array([[list(pair) for pair in pairs] for _, pairs in graphs], pa.list_(pa.list_(pa.int64())))
    table = table_of(nodes=[size for size, _ in graphs], edges=edges)
    source = fitted(table)
    rows = np.arange(len(graphs))
    found = source.collate(encoded(source, table).values, rows, None)
    start = line = 0
    for (size, pairs), count in zip(graphs, found.edges.tolist(), strict=True):
        own = (found.edge_index[:, line : line + count] - start).T.tolist()
        assert sorted(map(tuple, own)) == sorted(pairs | {(b, a) for a, b in pairs})
        assert own[: len(pairs)] == [list(pair) for pair in pairs]
        start, line = start + size, line + count
    one_way = source.__class__(directed=True)
    one_way.load_state_dict(source.state_dict())
    assert one_way.encode(table.take(rows), rows, table).values.edges.lengths.tolist() == [len(p) for _, p in graphs]


BAD = {
    "stranger": ({"edges": [[0, 1], [1, 3]]}, "edge 1 goes from 1 to 3, but the nodes are 0 to 2"),
    "negative": ({"edges": [[0, -1]]}, "edge 0 goes from 0 to -1, but"),
    "no nodes": ({"nodes": [], "edges": []}, "the graph has no nodes"),
    "missing nodes": ({"nodes": None}, "'nodes' is empty"),
    "missing edges": ({"edges": None}, "'edges' is empty"),
    "triple": ({"edges": [[0, 1], [1, 2, 0]]}, "item 1 of 'edges' has 3 values, where others have 2"),
    "width": ({"nodes": [[1.0, 2.0], [1.0], [1.0, 2.0]]}, "item 1 of 'nodes' has 1 values, where others have 2"),
    "infinite": ({"nodes": [[1.0, 2.0], [1.0, 2.0], [1.0, float("inf")]]}, "node 2: the node feature '1' is inf"),
    "features": ({"weights": [1.0]}, "the graph has 2 edges, but 'weights' 1 entries"),
    "no features": ({"weights": None}, "'weights' is empty"),
}


@pytest.mark.parametrize(("change", "problem"), BAD.values(), ids=BAD)
def test_what_is_no_graph_is_an_error_or_skipped(change, problem):
    good = {"nodes": [[1.0, 2.0], [2.0, 0.0], [0.0, 1.0]], "edges": PATH, "weights": [0.5, 1.5]}
    rows = [good, {**good, **change}, {**good, "edges": TRIANGLE, "weights": [1.0, 2.0, 3.0]}]
    table = Table.from_arrow(pa.Table.from_pylist(rows), source="graphs.jsonl")
    with pytest.raises(UserError) as raised:
        encoded(fitted(table, edge_features="weights"), table)
    assert problem in str(raised.value)
    assert "graphs.jsonl, row 2" in str(raised.value)
    assert "on_error: skip" in str(raised.value)
    source = fitted(table, edge_features="weights", on_error="skip")
    encoding = encoded(source, table)
    assert list(encoding.failures) == [1]
    assert problem in encoding.failures[1]
    kept = EncodedRows(table, np.arange(3), {"graph": source}, {}, seed=None, cache_bytes=10**6)
    assert kept.rows.tolist() == [0, 2]
    batch = kept[Request(0, np.array([1, 0]))].batch.inputs["graph"]
    assert batch.edges.tolist() == [6, 4]
    alone = encoded(source, table, [0, 2]).values
    assert torch.equal(batch.numbers, source.collate(alone.select(np.array([1, 0])), np.arange(2), None).numbers)
    assert len(batch.edge_numbers) == 10


def test_a_word_among_numbers_is_a_word_too_many():
    table = table_of(nodes=[["1", "2", "3"], ["4", "none", "5"]], edges=[PATH, PATH])
    with pytest.raises(UserError, match=r"node feature '0' is a number nearly everywhere, but also 'none'.*types: "):
        fitted(table, types={})
    source = fitted(table, types={"0": "number"}, on_error="skip")
    assert encoded(source, table).failures == {1: "node 1: the node feature '0' is 'none', which is not a number"}


@pytest.mark.parametrize(
    ("columns", "parameters", "message"),
    [
        ({"nodes": [[1.0]], "edges": [1.5]}, {}, r"the column 'edges' holds double, not lists"),
        ({"nodes": [[1.0, 2.0]], "edges": [[0, 1]]}, {}, "the column 'edges' does not hold edges: pairs"),
        ({"nodes": [[[[1.0]]]], "edges": [[[0, 0]]]}, {}, "The node feature '0' holds list<.*numbers, words"),
        ({"nodes": [[1.0]], "edges": [[[0, 0]]]}, {"types": {"2": "number"}}, "no feature '2', whose type is set"),
        ({"nodes": [[1.0]], "edges": [[[0, 0]]]}, {"types": {"0": "word"}}, "the feature '0' is 'word'.*number, cat"),
        ({"nodes": [[1.0]], "edges": [[[0, 2]]]}, {"on_error": "skip"}, "None of the 1 training rows has a graph: gra"),
        ({"atoms": [[1.0]], "edges": [[[0, 2]]]}, {}, "has no column 'nodes'"),
    ],
)
def test_what_cannot_be_graphs_is_refused(columns, parameters, message):
    with pytest.raises(UserError, match=message):
        fitted(table_of(**columns), **parameters)


def test_a_feature_that_is_gone_is_missed():
    source = fitted(table_of(nodes=[[{"a": 1.0, "b": 2.0}]], edges=[[[0, 0]]]))
    other = table_of(nodes=[[{"a": 1.0, "c": 2.0}]], edges=[[[0, 0]]])
    with pytest.raises(UserError, match="There is no node feature 'b', which the model reads"):
        encoded(source, other)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_files_hold_lists_as_they_are_or_as_text(tmp_path, suffix):
    nodes = [[{"kind": "C"}, {"kind": "O"}], [{"kind": "C"}]]
    table = pd.DataFrame({"nodes": nodes, "edges": [[[0, 1]], []]})
    path = tmp_path / f"graphs.{suffix}"
    if suffix == "jsonl":
        table.to_json(path, orient="records", lines=True)
    elif suffix == "csv":
        table.map(json.dumps).to_csv(path, index=False)
    else:
        table.to_parquet(path)
    graphs = graphs_of(read_table(path, cache=tmp_path / "cache"))
    assert graphs.x.tolist() == [[2], [3], [2]]
    assert graphs.edge_index.tolist() == [[0, 1], [1, 0]]


def test_text_that_is_no_list():
    table = table_of(nodes=["[1, 2]", "[1, 2", "7"], edges=["[[0, 1]]", "[]", "[]"])
    failures = encoded(fitted(table, on_error="skip"), table).failures
    assert failures == {1: "'nodes' is '[1, 2', which is no list", 2: "'nodes' is '7', which is no list"}
    with pytest.raises(UserError, match="column 'nodes': its lists do not hold values of one kind"):
        fitted(table_of(nodes=['[1, "C"]'], edges=["[[0, 1]]"]))


def test_it_can_be_sent_to_a_worker_and_restored():
    table = table_of(nodes=[[["C", "1"], ["O", "2"]]], edges=[[[0, 1]]], weights=[[2.0]])
    source = fitted(table, edge_features="weights")
    again = GraphColumnsInput(edge_features="weights")
    again.load_state_dict(json.loads(json.dumps(source.state_dict())))
    for other in (pickle.loads(pickle.dumps(source)), again):
        assert other.shape == source.shape
        assert other.columns == ("nodes", "edges", "weights")
        assert other.row_bytes == source.row_bytes > 0
        found = other.collate(encoded(other, table).values, np.arange(1), None)
        assert found.x.tolist() == [[2, 6], [3, 7]]
