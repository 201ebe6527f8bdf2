"""One label for each node of a graph."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from polytask.data.inputs import GraphColumnsInput, TabularInput
from polytask.data.preparation import Preparation
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec

GRAPHS = {"nodes": [[[1.0], [2.0], [3.0]], [[4.0]], [[5.0], [6.0]]], "edges": [[[0, 1]], [], [[1, 0]]]}
CLASSES = [["a", None, "b"], None, ["b", "b"]]
NUMBERS = [[1.0, None, 3.0], None, [5.0, 7.0]]


def table_of(**columns):
    return Table.from_arrow(pa.table({**GRAPHS, **columns}), source="plants.jsonl")


def prepared(table, kind, **more):
    spec = TargetSpec(kind, ("y",), **more)
    return Preparation.fit(table, np.arange(len(table)), {"graph": GraphColumnsInput()}, {"t": spec})


def batch_of(preparation, table):
    (batch,) = preparation.loader(table, batch_size=8)
    return batch


def test_classes_of_nodes():
    table = table_of(y=CLASSES)
    preparation = prepared(table, "node_classes")
    assert preparation.summaries["t"].classes == ("a", "b")
    assert preparation.summaries["t"].counts == (1, 3)
    again = Preparation.from_state(json.loads(json.dumps(preparation.state_dict())), {"graph": GraphColumnsInput()})
    for each in (preparation, again):
        batch = batch_of(each, table)
        assert batch.targets["t"].values.tolist() == [[0, -1, 1], [-1, -1, -1], [1, 1, -1]]
        assert batch.targets["t"].lengths.tolist() == [3, 0, 2]
        assert batch.masks["t"].tolist() == [True, False, True]
        assert batch.labelled["t"].tolist() == [0, 2]


def test_numbers_of_nodes():
    table = table_of(y=NUMBERS)
    preparation = prepared(table, "node_numbers")
    summary = preparation.summaries["t"]
    assert (summary.labelled, summary.mean, summary.std) == (2, (4.0,), (float(np.std([1, 3, 5, 7])),))
    batch = batch_of(preparation, table)
    nan = torch.nan
    expected = torch.tensor([[1.0, nan, 3.0], [nan, nan, nan], [5.0, 7.0, nan]])
    torch.testing.assert_close(batch.targets["t"].values, expected, equal_nan=True)
    assert batch.masks["t"].tolist() == [True, False, True]
    tally = preparation.targets["t"].tally()
    tally.add(preparation.targets["t"].read(table.take(None), np.arange(3), table))
    assert str(tally).startswith("mean 4, std 2.236")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            "node_classes",
            [["a", "b"], ["a"], ["b", "b"]],
            "row 1: 'y' .task 't'. has 2 labels, but the graph has 3 nodes",
        ),
        ("node_numbers", [[1.0, 2.0, 3.0], [], [1.0, 2.0]], "row 2: 'y' .task 't'. has 0 labels, but the graph has 1"),
        (
            "node_numbers",
            [[1.0, float("inf"), 3.0], [1.0], [1.0, 2.0]],
            "row 1, column 'y', node 1: inf is not a finite",
        ),
        ("node_numbers", [["x", "1", "2"], ["1"], ["1", "2"]], "row 1, column 'y', node 0: .*'x'"),
        ("node_classes", [1, 2, 3], "the column 'y' holds int64, not lists"),
        ("node_classes", [[[1, 2]] * 3, [[1, 2]], [[1, 2]] * 2], "does not hold one label for each node"),
        ("node_classes", ["[0, 1, 0]", "[1", "[1, 1]"], "row 2: 'y' is '.1', which is no list"),
        ("node_classes", [None, None, [None, None]], "none of the 3 training rows"),
    ],
)
def test_labels_that_do_not_fit_are_refused(kind, values, message):
    table = table_of(y=values)
    with pytest.raises(UserError, match=message):
        batch_of(prepared(table, kind), table)


def test_there_must_be_one_input_of_graphs():
    table = table_of(y=CLASSES, x=[1.0, 2.0, 3.0])
    with pytest.raises(UserError, match="there must be one input of graphs, not 0"):
        Preparation.fit(table, np.arange(3), {"row": TabularInput(["x"])}, {"t": TargetSpec("node_classes", ("y",))})
