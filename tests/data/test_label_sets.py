import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.label_sets import LabelsTarget
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec, TargetSummary


def _table(**columns):
    return Table.from_arrow(pa.table(columns), source="songs.csv")


def _fitted(table, columns=("y",), rows=None, **spec):
    target = LabelsTarget("moods", TargetSpec("labels", tuple(columns), **spec))
    target.fit(table, np.arange(len(table)) if rows is None else np.array(rows))
    return target


def _encode(target, table):
    rows = np.arange(len(table))
    values, mask = target.encode(table.take(rows, target.spec.columns), rows, table)
    assert values.dtype == torch.float32
    assert mask.dtype == torch.bool
    assert values.shape == mask.shape
    return values.tolist(), mask.tolist()


def test_yes_no_columns_are_masked_each_for_itself():
    table = _table(happy=[1, 0, None, None], calm=["yes", None, "no", None], loud=[True, True, False, None])
    target = _fitted(table, ("happy", "calm", "loud"))
    assert target.summary == TargetSummary(
        labelled=3, classes=("happy", "calm", "loud"), counts=(1, 1, 2), known=(2, 2, 3)
    )
    assert _encode(target, table) == (
        [[1, 1, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]],
        [[True, True, True], [True, False, True], [False, True, True], [False, False, False]],
    )


def test_one_yes_no_column_is_one_class():
    assert _fitted(_table(y=[1.0, 0.0, None])).summary == TargetSummary(2, ("y",), (1,), (2,))


def test_what_is_neither_yes_nor_no_is_an_error_that_names_the_row():
    table = _table(happy=[1, 0, 2], calm=[1, 1, 1])
    with pytest.raises(
        UserError, match=r"songs.csv, row 3, column 'happy' \(task 'moods'\): 2.* Allowed: true and fal"
    ):
        _fitted(table, ("happy", "calm"))


def test_lists_and_text_with_a_separator_say_the_same():
    lists = _table(y=[["calm", "happy"], [], None, ["happy", "happy", None]])
    text = _table(y=["calm|happy", "|", None, " happy | happy|"])
    expected = ([[1, 1], [0, 0], [0, 0], [0, 1]], [[True, True], [True, True], [False, False], [True, True]])
    for table in (lists, text):
        target = _fitted(table)
        assert target.summary == TargetSummary(3, ("calm", "happy"), (1, 2), (3, 3))
        assert _encode(target, table) == expected


def test_another_separator():
    assert _fitted(_table(y=["a, b", "c|d"]), separator=",").summary.classes == ("a", "b", "c|d")


def test_lists_of_numbers_are_sorted_as_numbers():
    assert _fitted(_table(y=[[10, 9], [2]])).summary.classes == ("2", "9", "10")


@settings(max_examples=40)
@given(st.lists(st.one_of(st.none(), st.sets(st.sampled_from("abcd"))), min_size=1, max_size=20).filter(any))
def test_decoding_gives_back_what_was_encoded(sets):
    table = _table(y=pa.array([None if s is None else sorted(s) for s in sets], pa.list_(pa.string())))
    target = _fitted(table)
    values, mask = _encode(target, table)
    decoded = [
        {target.summary.classes[i] for i, value in enumerate(row) if value} if known[0] else None
        for row, known in zip(values, mask, strict=True)
    ]
    assert decoded == sets


def test_an_unseen_class_is_an_error_that_names_the_row():
    table = _table(y=["a|b", "b", None, "b|z"])
    with pytest.raises(UserError, match=r"songs.csv, row 4: the class 'z' of 'y' .* Allowed: 'a', 'b'"):
        _encode(_fitted(table, rows=[0, 1]), table)


def test_unseen_classes_can_have_a_class_of_their_own():
    table = _table(y=["a|b", "b", "b|z", "z"])
    target = _fitted(table, rows=[0, 1], unseen="unknown")
    assert target.summary.classes == ("a", "b", "unknown")
    assert _encode(target, table)[0] == [[1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_classes_that_the_user_fixed_keep_their_order():
    table = _table(y=["a|b", "b"])
    assert _fitted(table, classes=("c", "b", "a")).summary == TargetSummary(2, ("c", "b", "a"), (0, 2, 1), (2, 2, 2))
    with pytest.raises(UserError, match=r"the class 'a' of 'y' .* is not among the task's classes"):
        _fitted(table, classes=("b",))


def test_names_for_yes_no_columns_must_be_as_many():
    table = _table(a=[1, 0], b=[0, 1])
    assert _fitted(table, ("a", "b"), classes=("x", "y")).summary.classes == ("x", "y")
    with pytest.raises(UserError, match=r"has 2 yes/no columns, 'a', 'b', but 3 classes"):
        _fitted(table, ("a", "b"), classes=("x", "y", "z"))


@pytest.mark.parametrize("values", [pa.array([None, None], pa.string()), pa.array([None, None])])
def test_no_label_is_nothing_to_learn(values):
    with pytest.raises(UserError, match=r"none of the 2 training rows of songs.csv has a value in 'y'"):
        _fitted(_table(y=values))


def test_no_yes_or_no_at_all_is_nothing_to_learn():
    with pytest.raises(UserError, match=r"none of the 2 training rows"):
        _fitted(_table(a=pa.array([None, None], pa.bool_()), b=pa.array([None, None], pa.bool_())), ("a", "b"))
