"""How many rows are labelled for each task, by which source, and together."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data import overlap as overlap_module
from polytask.data.combined import combine
from polytask.data.inputs import TabularInput
from polytask.data.overlap import LabelCounts, count_labels
from polytask.data.preparation import Preparation
from polytask.data.source import Source
from polytask.data.table import Table
from polytask.labels import TargetSpec


def counted(table, targets, rows=None):
    rows = np.arange(len(table)) if rows is None else np.array(rows)
    prepared = Preparation.fit(table, np.arange(len(table)), {"row": TabularInput(["x"])}, targets)
    return count_labels(table, rows, prepared)


def numbers(*columns):
    return TargetSpec("numbers", columns)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_overlap_is_the_share_of_rows_labelled_for_both(rows, tasks, seed, size):
    draw = np.random.default_rng(seed)
    known = draw.random((rows, tasks)) < 0.5
    known[0] = True
    columns = {str(k): pa.array(draw.normal(size=rows), mask=~known[:, k]) for k in range(tasks)}
    table = Table.from_arrow(pa.table({"x": draw.normal(size=rows), **columns}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap_module, "_PART_VALUES", size)
        labels = counted(table, {f"t{k}": numbers(str(k)) for k in range(tasks)}, np.arange(1, rows))
    known = known[1:].astype(int)
    np.testing.assert_array_equal(labels.together, known.T @ known)
    np.testing.assert_array_equal(labels.labelled, known.sum(axis=0))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(labels.overlap, (known.T @ known) / known.sum(axis=0)[:, None])
    assert labels.complete == bool(known.all())
    assert (labels.sources, labels.by_source.shape) == ((), (tasks, 0))


def test_a_row_of_several_columns_is_labelled_if_any_is():
    table = Table.of({"x": [1, 2, 3], "a": [1.0, None, None], "b": [None, 2.0, None], "c": ["u", None, "v"]})
    labels = counted(table, {"ab": numbers("a", "b"), "c": TargetSpec("category", ("c",))})
    assert labels.together.tolist() == [[2, 1], [1, 2]]


def test_a_source_labels_what_it_has_the_column_for():
    sources = [
        Source("images", {"train": Table.of({"id": [1, 2, 3], "x": [0.1, 0.2, 0.4]}, "images.csv")}, "id"),
        Source("labels", {"train": Table.of({"id": [3, 1], "y": [5.0, None]}, "labels.csv")}, "id"),
        Source("more", {"train": Table.of({"x": [0.5, 0.6], "y": [1.0, 2.0], "z": [None, 7.0]}, "more.csv")}),
    ]
    targets = {"y": numbers("y"), "z": numbers("z")}
    labels = counted(combine(sources, targets), targets)
    assert labels.sources == ("images", "labels", "more")
    assert labels.by_source.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert labels.overlap.tolist() == [[1.0, 1 / 3], [1.0, 1.0]]
    plain = labels.as_json()
    assert plain == {
        "y": {"labelled": 3, "by_source": {"images": 0, "labels": 1, "more": 2}},
        "z": {"labelled": 1, "by_source": {"images": 0, "labels": 0, "more": 1}},
    }
    assert json.loads(json.dumps(plain)) == plain


def test_pairs_come_with_the_most_in_common_first():
    together = np.array([[10, 2, 0], [2, 4, 3], [0, 3, 30]])
    labels = LabelCounts(("a", "b", "c"), (), 50, together, np.zeros((3, 0), np.int64))
    assert labels.pairs() == [("b", "c", 0.75), ("a", "b", 0.5)]


def test_a_task_without_labels_has_no_shares():
    labels = LabelCounts(("a", "b"), (), 5, np.array([[3, 0], [0, 0]]), np.zeros((2, 0), np.int64))
    np.testing.assert_array_equal(labels.overlap, [[1.0, 0.0], [np.nan, np.nan]])
    assert labels.as_json() == {"a": {"labelled": 3}, "b": {"labelled": 0}}
