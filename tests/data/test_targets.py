import json
import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.table import Table
from polytask.data.targets import make_target, target_from_state
from polytask.errors import UserError
from polytask.labels import TargetSpec, TargetSummary


def _table(source="reviews.csv", **columns):
    return Table.from_arrow(pa.table(columns), source=source)


def _category(table, rows=None, column="y", **spec):
    target = make_target("tone", TargetSpec("category", (column,), **spec))
    target.fit(table, np.arange(len(table)) if rows is None else np.array(rows))
    return target


def _numbers(table, columns=("y",), rows=None):
    target = make_target("age", TargetSpec("numbers", tuple(columns)))
    target.fit(table, np.arange(len(table)) if rows is None else np.array(rows))
    return target


def _encode(target, table, rows=None):
    rows = np.arange(len(table)) if rows is None else np.array(rows)
    values, mask = target.encode(table.take(rows, target.spec.columns), rows, table)
    return values.tolist(), mask.tolist()


def test_numbers_below_the_least_are_named_with_their_row():
    table = _table(a=[1.0, 2.0], b=[None, -3.0])
    target = make_target("visits", TargetSpec("numbers", ("a", "b"), least=0.0))
    with pytest.raises(
        UserError, match=r"reviews.csv, row 2, column 'b': the value is -3, but the task 'visits' learns"
    ):
        target.fit(table, np.arange(2))
    target.fit(table, np.arange(1))
    assert _encode(target, table, [0]) == ([[1.0, 0.0]], [[True, False]])


def test_an_ordered_class_that_is_new_has_no_place_to_go():
    table = _table(y=["1", "2", "3"])
    target = _category(table, rows=[0, 1], ordered=True)
    with pytest.raises(UserError, match=r"the class '3' of 'y'.*or list all classes in their order") as raised:
        _encode(target, table)
    assert "unknown" not in str(raised.value)


class TestCategory:
    def test_classes_are_found_in_the_training_part_and_sorted(self):
        table = _table(y=["b", "a", "b", None, "a", "c"])
        target = _category(table, rows=[0, 1, 2, 3])
        assert target.summary == TargetSummary(labelled=3, classes=("a", "b"), counts=(1, 2))
        assert _encode(target, table, [4, 3, 0]) == ([0, 0, 1], [True, False, True])

    def test_targets_are_int64(self):
        table = _table(y=["b", "a"])
        values, mask = _category(table).encode(table.take(None), np.arange(2), table)
        assert values.dtype == torch.int64
        assert mask.dtype == torch.bool

    @pytest.mark.parametrize(
        ("values", "classes"),
        [
            ([10, 9, 10], ("9", "10")),
            ([1.0, 0.0, None], ("0", "1")),
            ([True, False, None], ("false", "true")),
            ([0.5, 1.0, float("nan")], ("0.5", "1")),
            (["yes", "no", ""], ("no", "yes")),
        ],
    )
    def test_values_of_all_types_are_classes(self, values, classes):
        assert _category(_table(y=pa.array(values))).summary.classes == classes

    @settings(max_examples=40)
    @given(
        st.lists(st.one_of(st.none(), st.sampled_from("abcde")), min_size=2, max_size=30).filter(
            lambda drawn: len(set(drawn) - {None}) > 1
        )
    )
    def test_decoding_gives_back_what_was_encoded(self, values):
        table = _table(y=pa.array(values, pa.string()))
        target = _category(table)
        codes, mask = _encode(target, table)
        assert [target.summary.classes[c] if known else None for c, known in zip(codes, mask, strict=True)] == values
        assert all(code == 0 for code, known in zip(codes, mask, strict=True) if not known)
        assert sum(target.summary.counts) == target.summary.labelled == sum(mask)

    def test_integers_meet_the_classes_of_floats(self):
        target = _category(_table(y=[0.0, 1.0, None]))
        assert _encode(target, _table(y=[1, 0])) == ([1, 0], [True, True])

    def test_an_unseen_class_is_an_error_that_names_the_row(self):
        target = _category(_table(y=["good", "bad"]))
        with pytest.raises(
            UserError,
            match=r"new.csv, row 3: the class 'goood' of 'y' \(task 'tone'\) does not occur in the training part. "
            r"Did you mean 'good'\? Allowed: 'bad', 'good'.*unseen: unknown",
        ):
            _encode(target, _table("new.csv", y=["bad", None, "goood"]))

    def test_unseen_classes_can_have_a_class_of_their_own(self):
        target = _category(_table(y=["good", "bad"]), unseen="unknown")
        assert target.summary.classes == ("bad", "good", "unknown")
        assert target.summary.counts == (1, 1, 0)
        assert _encode(target, _table(y=["new", "good", None])) == ([2, 1, 0], [True, True, False])

    def test_a_class_called_unknown_is_not_doubled(self):
        target = _category(_table(y=["unknown", "good", "good"]), unseen="unknown")
        assert target.summary.classes == ("good", "unknown")
        assert _encode(target, _table(y=["new"])) == ([1], [True])

    def test_classes_that_the_user_fixed_keep_their_order(self, caplog):
        with caplog.at_level(logging.WARNING, "polytask"):
            target = _category(_table(y=["low", "high", "low"]), classes=("low", "middle", "high"))
        assert target.summary == TargetSummary(labelled=3, classes=("low", "middle", "high"), counts=(2, 0, 1))
        assert "no training row has the class 'middle'" in caplog.text

    def test_training_rows_outside_of_the_fixed_classes(self):
        table = _table(y=["low", "high", "odd"])
        with pytest.raises(
            UserError, match=r"row 3: the class 'odd' of 'y' \(task 'tone'\) is not among the task's cl"
        ):
            _category(table, classes=("low", "high"))
        target = _category(table, classes=("low", "high"), unseen="unknown")
        assert target.summary == TargetSummary(labelled=3, classes=("low", "high", "unknown"), counts=(1, 1, 1))

    def test_one_class_is_nothing_to_learn(self):
        with pytest.raises(UserError, match=r"'y' has only one class, 'a', so there is nothing to tell apart"):
            _category(_table(y=["a", "a", None]))

    def test_no_label_is_nothing_to_learn(self):
        table = _table(y=["a", "b", None, None])
        with pytest.raises(
            UserError, match=r"Task 'tone': none of the 2 training rows of reviews.csv has a value in 'y'"
        ):
            _category(table, rows=[2, 3])

    def test_an_absent_column_is_an_error_with_a_suggestion(self):
        with pytest.raises(
            UserError, match=r"reviews.csv has no column 'tonne', the target of the task 'tone'. Did you"
        ):
            _category(_table(tone=["a", "b"]), column="tonne")

    def test_a_quantity_as_classes_is_noticed(self, caplog):
        with caplog.at_level(logging.WARNING, "polytask"):
            _category(_table(y=np.arange(150) / 7))
        assert "'y' has 150 classes in 150 training rows. For a quantity, the task's type is regression" in caplog.text


class TestNumbers:
    def test_mean_and_deviation_are_those_of_the_labelled_training_rows(self):
        table = _table(y=[1.0, None, 3.0, 100.0])
        target = _numbers(table, rows=[0, 1, 2])
        assert target.summary == TargetSummary(labelled=2, mean=(2.0,), std=(1.0,))
        assert _encode(target, table, [3, 1]) == ([[100.0], [0.0]], [[True], [False]])

    def test_several_columns_are_masked_each_for_itself(self):
        table = _table(a=[1, None, 3, None], b=[5.0, 6.0, float("nan"), None])
        target = _numbers(table, ("b", "a"))
        assert target.summary.labelled == 3
        assert _encode(target, table) == (
            [[5, 1], [6, 0], [0, 3], [0, 0]],
            [[True, True], [True, False], [False, True], [False, False]],
        )

    def test_text_that_holds_numbers_is_read(self):
        assert _encode(_numbers(_table(y=["1.5", None, " 2"])), _table(y=["3"])) == ([[3.0]], [[True]])

    @pytest.mark.parametrize(("value", "message"), [("many", "'many' is not a number"), ("inf", "not a finite number")])
    def test_what_is_no_number_is_an_error_that_names_the_row(self, value, message):
        with pytest.raises(UserError, match=f"reviews.csv, row 2, column 'y': .*{message}"):
            _numbers(_table(y=["1", value]))

    def test_a_constant_target_is_divided_by_1_and_noticed(self, caplog):
        with caplog.at_level(logging.WARNING, "polytask"):
            summary = _numbers(_table(y=[0.1] * 9, z=[1.0, 2.0] + [None] * 7), ("y", "z")).summary
        assert summary.std == (1.0, 0.5)
        assert "Task 'age': 'y' has one and the same value in the training part" in caplog.text

    def test_an_output_without_values_is_noticed(self, caplog):
        with caplog.at_level(logging.WARNING, "polytask"):
            _numbers(_table(y=[1.0, 2.0], z=pa.array([None, None], pa.float64())), ("y", "z"))
        assert "'z' has no value in the training part" in caplog.text

    def test_no_label_is_nothing_to_learn(self):
        with pytest.raises(UserError, match=r"none of the 2 training rows"):
            _numbers(_table(y=pa.array([None, None], pa.float64())))

    def test_grades_of_students(self, data_root):
        from polytask.data.readers import read_table

        table = read_table(data_root / "student_performance" / "student-mat.csv")
        summary = _numbers(table, ("G1", "G3")).summary
        grades = table.take(None, ["G1", "G3"]).to_pandas()
        np.testing.assert_allclose(summary.mean, grades.mean())
        np.testing.assert_allclose(summary.std, grades.std(ddof=0))


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (TargetSpec("category", ("y",), unseen="unknown"), ["a", "b", None]),
        (TargetSpec("numbers", ("y",)), [1.0, 4.0, None]),
        (TargetSpec("labels", ("y",), separator=";"), ["a;b", "b", None]),
        (TargetSpec("labels", ("y",)), [True, False, None]),
    ],
)
def test_a_state_that_went_through_json_encodes_the_same(spec, values):
    table = _table(y=pa.array(values))
    target = make_target("task", spec)
    target.fit(table, np.arange(3))
    restored = target_from_state("task", json.loads(json.dumps(target.state_dict())))
    assert type(restored) is type(target)
    assert restored.spec == spec
    assert restored.summary == target.summary
    assert _encode(restored, table) == _encode(target, table)


def test_what_is_not_fitted_has_no_summary():
    with pytest.raises(RuntimeError, match=r"not fitted"):
        _ = make_target("task", TargetSpec("numbers", ("y",))).summary
