import json
import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.column_types import ColumnType
from polytask.data.inputs import TabularInput
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.shapes import TabularShape


def _table(columns, **others):
    return Table.from_arrow(pa.table(columns), source="people.csv", **others)


def _fitted(table, rows=None, reserved=(), **parameters):
    source = TabularInput(**parameters)
    source.resolve(table, reserved)
    source.fit(table, np.arange(len(table)) if rows is None else np.array(rows), {})
    return source


def _encode(source, table, rows=None):
    rows = np.arange(len(table)) if rows is None else np.array(rows)
    batch = source.collate(source.encode(table.take(rows), rows, table).values, rows, None)
    return batch["numeric"].numpy(), batch["categorical"].numpy()


def test_numbers_are_standardised_with_the_training_part_alone():
    table = _table({"age": [10.0, 20.0, 30.0, 1000.0]})
    numeric, categorical = _encode(_fitted(table, rows=[0, 1, 2]), table)
    deviation = np.std([10, 20, 30])
    np.testing.assert_allclose(numeric[:, 0], [-10 / deviation, 0, 10 / deviation, 980 / deviation], rtol=1e-6)
    assert numeric.dtype == np.float32
    assert categorical.shape == (4, 0)
    assert categorical.dtype == np.int64


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_standardised_training_columns_have_mean_0_and_deviation_1(data):
    values = data.draw(
        st.lists(st.one_of(st.none(), st.integers(-1000, 1000)), min_size=3, max_size=30).filter(
            lambda drawn: len({value for value in drawn if value is not None}) > 1
        )
    )
    source = _fitted(_table({"x": pa.array(values, pa.float64())}))
    numeric, _ = _encode(source, _table({"x": pa.array(values, pa.float64())}))
    missing = np.array([value is None for value in values])
    assert source.shape == TabularShape(numeric=2 if missing.any() else 1)
    known = numeric[~missing, 0].astype(float)
    np.testing.assert_allclose([known.mean(), known.std()], [0, 1], atol=1e-5)
    median = np.median([value for value in values if value is not None])
    observed = np.array([value for value in values if value is not None], dtype=float)
    np.testing.assert_allclose(numeric[missing, 0], (median - observed.mean()) / observed.std(), atol=1e-5)
    if missing.any():
        np.testing.assert_array_equal(numeric[:, 1], missing)


def test_categories_have_codes_after_missing_and_unknown():
    table = _table({"job": ["cook", "nurse", None, "pilot", "cook"]})
    source = _fitted(table, rows=[0, 1, 2, 4])
    _, codes = _encode(source, table)
    assert codes[:, 0].tolist() == [2, 3, 0, 1, 2]
    assert source.shape == TabularShape(numeric=0, cardinalities=(4,))


def test_rare_categories_are_unknown():
    table = _table({"job": ["cook", "nurse", "cook", "pilot"]})
    source = _fitted(table, min_count=2)
    assert _encode(source, table)[1][:, 0].tolist() == [2, 1, 2, 1]
    assert source.shape.cardinalities == (3,)


def test_a_column_of_rare_categories_alone_is_left_out(caplog):
    table = _table({"name": ["a", "b", "c", "d"], "x": [1.0, 2.0, 3.0, 4.0]})
    with caplog.at_level(logging.INFO, "polytask"):
        assert _fitted(table, min_count=2).columns == ("x",)
    assert "'name' (no category has 2 rows)" in caplog.text


def test_booleans_and_numbers_marked_as_categories_are_categories():
    table = _table(
        {"member": [True, False, None], "zip": [9, 10, 9]},
        types={"zip": ColumnType.CATEGORY, "member": ColumnType.BOOLEAN},
    )
    _, codes = _encode(_fitted(table), table)
    assert codes.tolist() == [[3, 2], [2, 3], [0, 2]]


def test_a_star_takes_what_is_neither_reserved_nor_unsuited(caplog):
    table = _table(
        {
            "id": list(range(7, 67)),
            "age": [float(i % 9) for i in range(60)],
            "name": [f"person number {i} of many" for i in range(60)],
            "born": pa.array([i * 86_400 for i in range(60)], pa.timestamp("s")),
            "scan": [f"{i}.png" for i in range(60)],
            "tags": [["a"]] * 60,
            "job": ["cook", "nurse"] * 30,
            "income": [float(i * i % 17) for i in range(60)],
            "group": ["x", "y", "z"] * 20,
        }
    )
    with caplog.at_level(logging.INFO, "polytask"):
        source = _fitted(table, reserved={"income"}, exclude=["group"])
    assert source.columns == ("age", "job")
    for expected in ("'name' (text)", "'born' (date)", "'scan' (image)", "'tags' (list)", "'id' (counts the rows)"):
        assert expected in caplog.text
    assert "people.csv: left out of the tabular input" in caplog.text


def test_useless_columns_are_left_out_and_named(caplog):
    table = _table(
        {
            "constant": [0.1] * 4,
            "empty": pa.array([None] * 4, pa.float64()),
            "same": ["a"] * 4,
            "blank": pa.array([None] * 4, pa.string()),
            "sometimes": [5.0, None, 5.0, 5.0],
            "known": ["a", None, "a", "a"],
        }
    )
    with caplog.at_level(logging.INFO, "polytask"):
        source = _fitted(table)
    assert source.columns == ("sometimes", "known")
    assert "'constant', 'same' (constant); 'empty', 'blank' (empty)" in caplog.text
    numeric, codes = _encode(source, table)
    assert numeric.tolist() == [[0, 0], [0, 1], [0, 0], [0, 0]]
    assert codes[:, 0].tolist() == [2, 0, 2, 2]


def test_listed_columns_are_read_in_their_order_text_as_categories():
    table = _table({"a": [1.0, 2.0], "b": [3.0, 5.0], "note": ["x y z w", "v"]}, types={"note": ColumnType.TEXT})
    source = _fitted(table, columns=["b", "note", "a"], exclude=["a"])
    assert source.columns == ("b", "note")
    assert source.shape == TabularShape(1, (4,))


def test_a_value_missing_later_is_imputed_without_an_indicator():
    source = _fitted(_table({"x": [1.0, 2.0, 6.0]}))
    numeric, _ = _encode(source, _table({"x": pa.array([None, 2.0], pa.float64())}))
    assert numeric.shape == (2, 1)
    assert numeric[0] == numeric[1]


def test_missing_values_can_be_an_error():
    table = _table({"x": [1.0, 2.0, None], "job": ["a", "b", "b"]})
    source = _fitted(table, rows=[0, 1], missing="error")
    with pytest.raises(UserError, match=r"people.csv, row 3: 'x' is empty. .* set missing: impute"):
        _encode(source, table)
    with pytest.raises(UserError, match=r"row 2: 'job' is empty"):
        _encode(source, _table({"x": [1.0, 2.0], "job": ["a", None]}))


def test_text_in_a_column_of_numbers_is_an_error_that_names_the_row():
    source = _fitted(_table({"x": [1.0, 2.0]}))
    with pytest.raises(UserError, match=r"people.csv, row 2, column 'x': 'many' is not a number"):
        _encode(source, _table({"x": ["1", "many"]}))


def test_a_state_that_went_through_json_encodes_the_same():
    table = _table({"x": [1.0, None, 4.0], "job": ["a", "b", None], "flag": [True, False, True]})
    source = _fitted(table)
    restored = TabularInput()
    restored.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert restored.shape == source.shape
    assert restored.columns == source.columns
    new = _table({"flag": [False, None], "job": ["c", "b"], "x": [None, 3.0]})
    for mine, theirs in zip(_encode(restored, new), _encode(source, new), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_median_of_many_rows_comes_from_a_sample(monkeypatch):
    monkeypatch.setattr("polytask.data.inputs.tabular._MEDIAN_ROWS", 1000)
    values = np.random.default_rng(0).permutation(10_000).astype(float)
    source = _fitted(_table({"x": values}))
    assert source.state_dict()["numeric"][0]["median"] == pytest.approx(5000, rel=0.1)


def test_parts_of_a_table_give_what_the_whole_gives(monkeypatch):
    generator = np.random.default_rng(0)
    table = _table({"x": generator.normal(size=50), "job": generator.choice(["a", "b", "c"], size=50).tolist()})
    whole = _fitted(table).state_dict()
    monkeypatch.setattr(Table, "batches", _in_parts_of_7(Table.batches))
    parts = _fitted(table).state_dict()
    assert parts["categorical"] == whole["categorical"]
    assert parts["numeric"][0]["mean"] == pytest.approx(whole["numeric"][0]["mean"], abs=1e-12)
    assert parts["numeric"][0]["std"] == pytest.approx(whole["numeric"][0]["std"], rel=1e-12)


def _in_parts_of_7(batches):
    return lambda self, columns, rows, **_: batches(self, columns, rows, size=7)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"columns": "age"}, r"columns is 'age'. Allowed: '\*', or a list"),
        ({"columns": []}, "columns is an empty list"),
        ({"min_count": 0}, "min_count is 0"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        TabularInput(**parameters)


def test_columns_that_are_not_there_or_not_suited_are_refused():
    table = _table({"age": [1, 2], "born": pa.array([0, 1], pa.timestamp("s")), "y": [1, 2]})
    with pytest.raises(UserError, match=r"no column 'agee'. Did you mean 'age'?"):
        TabularInput(["agee"]).resolve(table, ())
    with pytest.raises(UserError, match=r"no column 'z' to leave out"):
        TabularInput(exclude=["z"]).resolve(table, ())
    with pytest.raises(UserError, match=r"the column 'born' \(date\) cannot be part of a tabular input"):
        TabularInput(["born"]).resolve(table, ())
    with pytest.raises(UserError, match=r"the column 'y' is read by an input but also is a target"):
        TabularInput(["y"]).resolve(table, {"y"})
    with pytest.raises(UserError, match=r"no column left for the tabular input"):
        _fitted(table, reserved={"age", "y"})


def test_student_grades(data_root):
    from polytask.data.readers import read_table

    table = read_table(data_root / "student_performance" / "student-mat.csv")
    source = _fitted(table, reserved={"G1", "G2", "G3"})
    assert len(source.columns) == 30
    assert source.shape.numeric == 13
    assert len(source.shape.cardinalities) == 17
    numeric, codes = _encode(source, table)
    np.testing.assert_allclose(numeric.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(numeric.std(axis=0), 1, atol=1e-5)
    assert codes.min() == 2
    assert (codes.max(axis=0) + 1 == source.shape.cardinalities).all()
    assert torch.from_numpy(codes).dtype == torch.int64
