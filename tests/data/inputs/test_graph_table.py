"""Graphs in tables of nodes and of edges."""

import json
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from polytask.data.encoded_rows import EncodedRows
from polytask.data.inputs import GraphColumnsInput, GraphTableInput
from polytask.data.readers import read_table
from polytask.data.request import Request
from polytask.data.table import Table
from polytask.errors import UserError

NODES = [("a", "n1", 1.0, "C"), ("b", "n1", 2.0, "O"), ("a", "n2", 3.0, "O"), ("a", "n0", 5.0, "N")]
EDGES = [("a", "n2", "n1", 0.5), ("b", "n1", "n1", 1.0), ("a", "n0", "n1", 1.5)]
NAMES = {"nodes": "nodes.csv", "edges": "edges.csv", "key": "id"}


@pytest.fixture
def written(tmp_path):
    """Write the three tables, changed, and read the rows."""

    def write(nodes=NODES, edges=EDGES, keys=("a", "b"), folder="."):
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        pd.DataFrame(nodes, columns=["id", "node", "x", "kind"]).to_csv(place / "nodes.csv", index=False)
        pd.DataFrame(edges, columns=["id", "source", "target", "w"]).to_csv(place / "edges.csv", index=False)
        pd.DataFrame({"id": keys, "y": range(len(keys))}).to_csv(place / "rows.csv", index=False)
        return read_table(place / "rows.csv", cache=tmp_path / "cache")

    return write


def fitted(table, **parameters):
    source = GraphTableInput(**{**NAMES, **parameters})
    source.resolve(table, ())
    source.fit(table, np.arange(len(table)), {})
    return source


def encoded(source, table, rows=None):
    rows = np.arange(len(table)) if rows is None else np.array(rows)
    return source.encode(table.take(rows), rows, table)


def test_two_graphs(written):
    table = written()
    source = fitted(table)
    assert source.columns == ("id",)
    assert source.shape.node_features == (5,)
    graphs = source.collate(encoded(source, table, [1, 0]).values, np.array([1, 0]), None)
    assert graphs.nodes.tolist() == [1, 3]
    assert graphs.edges.tolist() == [1, 4]
    assert graphs.x[:, 0].tolist() == [4, 2, 4, 3]
    assert graphs.edge_index.tolist() == [[0, 2, 3, 1, 1], [0, 1, 1, 2, 3]]
    values = np.array([2.0, 1.0, 3.0, 5.0])
    torch.testing.assert_close(
        graphs.numbers[:, 0], torch.tensor((values - values.mean()) / values.std(), dtype=torch.float32)
    )
    spread = np.std([0.5, 1.0, 1.5])
    expected = torch.tensor(np.array([0.0, -0.5, 0.5, -0.5, 0.5]) / spread, dtype=torch.float32)
    torch.testing.assert_close(graphs.edge_numbers[:, 0], expected)


def test_only_nodes_of_training_rows_are_learned_from(written):
    table = written()
    source = GraphTableInput(**NAMES)
    source.resolve(table, ())
    source.fit(table, np.array([1]), {})
    assert source.shape.node_features == (3,), "missing, unknown, O"
    assert source.node_features.numeric[0].mean == 2.0


def test_the_same_graphs_in_cells_are_the_same(written, tmp_path):
    """Random graphs, their nodes and edges shuffled over the files."""
    random = np.random.default_rng(0)
    records, nodes, edges = [], [], []
    for number in range(12):
        size = int(random.integers(1, 6))
        values, kinds = random.normal(size=size).round(3).tolist(), random.choice(["C", "O"], size).tolist()
        pairs = [[a, b] for a in range(size) for b in range(size) if random.random() < 0.4]
        weights = random.normal(size=len(pairs)).round(3).tolist()
        own = [{"x": x, "kind": kind} for x, kind in zip(values, kinds, strict=True)]
        ends = [{"source": a, "target": b, "w": w} for (a, b), w in zip(pairs, weights, strict=True)]
        records.append({"nodes": own, "edges": ends})
        nodes.append([(f"g{number}", node, values[node], kinds[node]) for node in range(size)])
        edges.append([(f"g{number}", a, b, w) for (a, b), w in zip(pairs, weights, strict=True)])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    cells = read_table(tmp_path / "rows.jsonl", cache=tmp_path / "cache")

    def mixed(lists):  # the graphs mixed, the order within each kept
        stacks = [list(each) for each in lists]
        order = random.permutation(np.repeat(np.arange(12), [len(each) for each in lists]))
        return [stacks[number].pop(0) for number in order]

    table = written(mixed(nodes), mixed(edges), [f"g{number}" for number in range(12)])
    sources = [fitted(table), GraphColumnsInput()]
    sources[1].resolve(cells, ())
    sources[1].fit(cells, np.arange(12), {})
    rows = random.permutation(12)
    one, other = (
        source.collate(encoded(source, data, rows).values, rows, None)
        for source, data in zip(sources, (table, cells), strict=True)
    )
    for name, tensor in vars(one).items():
        torch.testing.assert_close(getattr(other, name), tensor, msg=name)


BAD = {
    "unknown key": ({"keys": ["a", "c"]}, "nodes.csv has no nodes of the graph 'c'"),
    "no key": ({"keys": ["a", None]}, "the row has no 'id'"),
    "stranger": (
        {"edges": [*EDGES, ("b", "n1", "n7", 0.0)]},
        "edges.csv, row 4 (line 5), column 'target': the graph 'b' has no node 'n7'",
    ),
    "node of another graph": (
        {"edges": [*EDGES, ("b", "n2", "n1", 0.0)]},
        "edges.csv, row 4 (line 5), column 'source': the graph 'b' has no node 'n2'",
    ),
    "twice": (
        {"nodes": [*NODES, ("b", "n1", 0.0, "C")]},
        "nodes.csv, row 5 (line 6): the graph 'b' has the node 'n1' twice",
    ),
    "infinite": (
        {"nodes": [*NODES[:1], ("b", "n1", float("inf"), "O"), *NODES[2:]]},
        "nodes.csv, row 2 (line 3): the node feature 'x' is inf, which is not a finite number",
    ),
}


@pytest.mark.parametrize(("change", "problem"), BAD.values(), ids=BAD)
def test_what_is_no_graph_is_an_error_or_skipped(written, change, problem):
    table = written(**change)
    with pytest.raises(UserError) as raised:
        encoded(fitted(table), table)
    assert problem in str(raised.value)
    assert "rows.csv, row 2 (line 3)" in str(raised.value)
    assert "on_error: skip" in str(raised.value)
    source = fitted(table, on_error="skip")
    encoding = encoded(source, table)
    assert list(encoding.failures) == [1]
    assert problem in encoding.failures[1]
    rows = EncodedRows(table, np.arange(2), {"graph": source}, {}, seed=None, cache_bytes=10**6)
    assert rows[Request(0, np.array([0]))].batch.inputs["graph"].edges.tolist() == [4]


def test_a_word_in_a_column_of_numbers(written):
    nodes = [(*node[:2], str(node[2]), node[3]) for node in NODES]
    table = written([*nodes, ("b", "n2", "much", "C")])
    with pytest.raises(UserError, match="node feature 'x' is a number nearly everywhere, but also 'much'"):
        fitted(table)
    source = fitted(table, types={"x": "number"}, on_error="skip")
    (problem,) = encoded(source, table).failures.values()
    assert "nodes.csv, row 5 (line 6): the node feature 'x' is 'much', which is not a number" in problem


def test_a_node_that_says_no_graph_is_refused(written):
    with pytest.raises(UserError, match=r"nodes\.csv, row 5 \(line 6\): the column 'id' is empty"):
        fitted(written([*NODES, (None, "n1", 0.0, "C")]))


def test_columns_can_be_named(written, tmp_path):
    table = written()
    nodes = pd.read_csv(tmp_path / "nodes.csv").rename(columns={"node": "atom"})
    nodes.to_csv(tmp_path / "nodes.csv", index=False)
    edges = pd.read_csv(tmp_path / "edges.csv").rename(columns={"source": "from", "target": "to"})
    edges.to_csv(tmp_path / "edges.csv", index=False)
    named = {"node": "atom", "source": "from", "target": "to", "directed": True}
    source = fitted(table, **named, node_features=["x"], edge_features=[])
    assert (source.shape.node_features, source.shape.node_numbers, source.shape.edges_differ) == ((), 1, False)
    graphs = source.collate(encoded(source, table).values, np.arange(2), None)
    assert graphs.edge_index.tolist() == [[1, 2, 3], [0, 0, 3]]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"nodes": "atoms.csv"}, r"atoms\.csv"),
        ({"node": "atom"}, "nodes.csv has no column 'atom'"),
        ({"key": "graph"}, "rows.csv has no column 'graph'"),
        ({"node_features": ["z"]}, "nodes.csv has no column 'z' for a feature"),
        ({"node_features": ["x", "node"]}, "the column 'node' names a graph or a node, and is no feature"),
        ({"edge_features": "w"}, r"edge_features is 'w'\. Allowed: '\*', or a list of columns: \['w'\]"),
        ({"types": {"y": "number"}}, "There is no feature 'y', whose type is set"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(written, parameters, message):
    with pytest.raises(UserError, match=message):
        fitted(written(), **parameters)


def test_other_rows_bring_their_own_graphs(written):
    source = fitted(written())
    other = written(nodes=[("z", "n9", 2.0, "C")], edges=[("z", "n9", "n9", 1.0)], keys=["z"], folder="later")
    found = encoded(source, other).values
    assert found.nodes.lengths.tolist() == [1]
    with pytest.raises(UserError, match="no nodes of the graph 'a'"):
        encoded(source, written(nodes=[("z", "n9", 2.0, "C")], edges=[("z", "n9", "n9", 1.0)], folder="third"))


def test_rows_of_several_folders_find_the_graphs_beside_them(written):
    class Several(Table):
        def folder_of(self, row, column):
            return self.folder if row < 2 else self.folder / "later"

    written()
    other = [("z", "n9", 2, "C"), ("z", "n8", float("inf"), "O"), ("y", "n1", 4, "O")]
    table = written(nodes=other, edges=[("z", "n9", "n8", 1)], keys=["z"], folder="later")
    rows = pa.table({"id": ["b", "a", "y", "z"]})
    table = Several(rows, source="all.csv", folder=table.folder.parent)
    source = fitted(table, on_error="skip", types={"x": "number"})
    encoding = encoded(source, table)
    assert encoding.values.nodes.lengths.tolist() == [1, 3, 1, 0]
    assert encoding.values.edges.lengths.tolist() == [1, 4, 0, 0]
    (problem,) = encoding.failures.values()
    assert problem.endswith("nodes.csv, row 2 (line 3): the node feature 'x' is inf, which is not a finite number")


def test_it_can_be_sent_to_a_worker_and_restored(written):
    table = written()
    source = fitted(table, node_features=["kind"], types={"kind": "category"})
    again = GraphTableInput(**NAMES, node_features=["kind"])
    again.load_state_dict(json.loads(json.dumps(source.state_dict())))
    for other in (pickle.loads(pickle.dumps(source)), again):
        assert other.shape == source.shape
        assert other.collate(encoded(other, table).values, np.arange(2), None).x[:, 0].tolist() == [2, 4, 3, 4]
