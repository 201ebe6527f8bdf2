import pickle
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data import table as table_module
from polytask.data.column_types import ColumnType
from polytask.data.readers import read_table
from polytask.data.table import Table
from polytask.errors import UserError


def example(rows, chunk):
    """A table in several record batches, mapped as files are, so that they stay several."""
    whole = pa.table(
        {
            "number": np.arange(rows, dtype=np.float64) / 2,
            "name": [None if row % 7 == 0 else f"name {row % 5}" for row in range(rows)],
            "tags": [["a"] * (row % 3) for row in range(rows)],
        }
    )
    codes = whole.append_column("code", whole["name"].dictionary_encode())
    parts = pa.concat_tables([codes.slice(start, chunk) for start in range(0, rows, chunk)])
    return Table(parts, source="x.csv", reopen=lambda: parts), whole.append_column("code", whole["name"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_take_gives_the_rows_in_the_order_asked_for(data):
    rows = data.draw(st.integers(1, 60))
    table, whole = example(rows, data.draw(st.integers(1, 60)))
    wanted = data.draw(st.lists(st.integers(0, rows - 1), max_size=80))
    taken = table.take(np.array(wanted, dtype=np.int64))
    assert taken.to_pylist() == [whole.slice(row, 1).to_pylist()[0] for row in wanted]
    assert all(column.num_chunks <= 1 for column in taken.columns)
    assert table.take(None).to_pylist() == whole.to_pylist()
    assert len(table) == rows


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 60), st.booleans())
def test_batches_give_every_row_once_with_its_position(rows, chunk, size, some):
    table, whole = example(rows, chunk)
    wanted = np.arange(rows)[::-2] if some else None
    parts = list(table.batches(["name", "number"], wanted, size))
    positions = np.concatenate([part for part, _ in parts]) if parts else np.empty(0, int)
    np.testing.assert_array_equal(positions, np.arange(rows) if wanted is None else wanted)
    assert all(len(part) == rows_.num_rows <= size for part, rows_ in parts)
    values = [value for _, part in parts for value in part.column("name").to_pylist()]
    assert values == [whole["name"][int(row)].as_py() for row in positions]
    assert all(part.column_names == ["name", "number"] for _, part in parts)


def test_codes_come_out_as_names_everywhere():
    table, whole = example(20, 6)
    assert table.column("code").type == pa.string()
    assert table.column("code").to_pylist() == whole["code"].to_pylist()
    assert table.take(np.array([3, 1]), ["code"]).schema.field("code").type == pa.string()
    assert next(table.batches(["code"]))[1].schema.field("code").type == pa.string()
    assert table.types["code"] == ColumnType.CATEGORY


def test_columns_come_in_the_order_asked_for():
    table, _ = example(5, 2)
    assert table.take(np.array([0]), ["tags", "number"]).column_names == ["tags", "number"]


def test_an_unknown_column_is_named_with_the_closest():
    table, _ = example(5, 2)
    with pytest.raises(
        UserError, match=r"x\.csv has no column 'numbr'\. Did you mean 'number'\? Its columns: 'number'"
    ):
        table.column("numbr")
    with pytest.raises(UserError, match="no column 'numbr'"):
        table.take(np.array([0]), ["name", "numbr"])


@pytest.mark.parametrize("rows", [[-1], [5], [0, 99]])
@pytest.mark.parametrize("chunk", [2, 5])
def test_rows_that_are_not_there_are_an_error(rows, chunk):
    table, _ = example(5, chunk)
    with pytest.raises(IndexError, match="has 5 rows"):
        table.take(np.array(rows))


def test_taking_64_rows_of_30_numbers_is_fast():
    generator = np.random.default_rng(0)
    table = Table.of({f"x{i}": generator.normal(size=20_000) for i in range(30)})
    rows = generator.integers(0, 20_000, 64)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        table.take(rows)
        times.append(time.perf_counter() - start)
    # A quarter of the measurements suffices: other work on the machine only ever adds time. About 60 us without any.
    assert np.quantile(times, 0.25) < 200e-6


def test_numbers_are_read_for_all_or_some_rows_and_name_the_bad_one():
    table = Table(
        pa.table({"x": ["1", None, "abc"]}), source="t.csv", line_of=lambda row: row + 2, types={"x": ColumnType.TEXT}
    )
    np.testing.assert_array_equal(table.numbers("x", np.array([1, 0])), [np.nan, 1])
    with pytest.raises(UserError, match=r"^t\.csv, row 3 \(line 4\), column 'x': 'abc' is not a number"):
        table.numbers("x")
    with pytest.raises(UserError, match=r"^t\.csv, row 3 \(line 4\), column 'x': 'abc'"):
        table.numbers("x", np.array([0, 2]))


def test_locate_counts_from_one():
    table = Table.of({"x": [1, 2]}, source="here")
    assert table.locate(0) == "here, row 1"


def test_pandas_data_become_a_table():
    frame = pd.DataFrame(
        {
            "age": [30, 40],
            "name": ["a", None],
            "colour": pd.Categorical(["red", "blue"]),
            "when": pd.to_datetime(["2026-01-01", None]),
            "missing": [np.nan, 1.5],
            7: [True, False],
        },
        index=[10, 20],
    )
    table = Table.of(frame)
    assert table.columns == ("age", "name", "colour", "when", "missing", "7")
    expected = ["number", "category", "category", "date", "number", "boolean"]
    assert [table.types[name] for name in table.columns] == expected
    assert table.column("colour").to_pylist() == ["red", "blue"]
    assert table.column("missing").null_count == 1
    assert Table.of(table) is table


def test_other_python_data_become_a_table():
    assert Table.of(pa.table({"x": [1, 2]})).columns == ("x",)
    assert len(Table.of(pa.record_batch({"x": [1, 2]}))) == 2
    assert Table.of({"x": np.arange(3), "y": ["a", "b", "c"]}).types == {"x": "number", "y": "category"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "the table is a list. Give a pandas DataFrame"),
        ({"x": [1, "a"]}, "column 'x': its values are not of one kind"),
        ({"x": [1], "y": [1, 2]}, "different numbers of rows"),
        ({"x": 5}, "column 'x': its values are not of one kind"),
        ({"x": []}, "the table has no rows"),
        ({}, "the table has no columns"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column called 'a'"),
        (pa.table([[1], [2]], names=["a", "a"]), "more than one column called 'a'"),
    ],
)
def test_python_data_that_are_no_table_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        Table.of(data)


def test_set_types_change_values_in_memory_and_name_the_bad_row():
    data = pa.table({"x": ["1", "2"], "y": [0, 1]})
    table = Table.from_arrow(data, types={"x": ColumnType.NUMBER, "y": ColumnType.CATEGORY})
    assert table.types == {"x": "number", "y": "category"}
    assert table.column("x").to_pylist() == [1.0, 2.0]
    with pytest.raises(UserError, match=r"the table, row 2, column 'x': 'b' is not a number.*set to 'number'"):
        Table.from_arrow(pa.table({"x": ["1", "b"]}), types={"x": ColumnType.NUMBER})
    with pytest.raises(UserError, match="no column 'z'"):
        Table.from_arrow(data, types={"z": ColumnType.NUMBER})


def test_large_tables_in_memory_are_not_copied(monkeypatch):
    data = pa.concat_tables([pa.table({"x": ["1", "2"]}), pa.table({"x": ["3"]})])
    monkeypatch.setattr(table_module, "_COPIED_BYTES", 1)
    table = Table.from_arrow(data)
    assert table.column("x").chunk(1).buffers()[2].address == data["x"].chunk(1).buffers()[2].address
    numbers = Table.from_arrow(data, types={"x": ColumnType.NUMBER})
    assert numbers.take(np.array([2, 0]))["x"].to_pylist() == [3.0, 1.0]


def test_types_cannot_be_changed_behind_the_table():
    table = Table.of({"x": [1]})
    with pytest.raises(TypeError):
        table.types["x"] = ColumnType.TEXT


def test_mapped_tables_travel_to_other_processes_without_their_rows(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("n,s\n" + "".join(f"{i},word{i % 3}\n" for i in range(20_000)))
    table = read_table(path)
    table.take(np.array([1]), ["s"])
    assert table.fingerprint
    pickled = pickle.dumps(table)
    assert len(pickled) < 3_000
    again = pickle.loads(pickled)
    assert again.take(None).equals(table.take(None))
    assert (again.types, again.columns, again.fingerprint) == (table.types, table.columns, table.fingerprint)
    assert again.locate(4) == table.locate(4) == f"{path}, row 5 (line 6)"


def test_tables_in_memory_travel_with_their_rows():
    table = Table.of({"x": [1, 2], "c": pd.Categorical(["a", "b"])})
    again = pickle.loads(pickle.dumps(table))
    assert again.take(None).to_pylist() == table.take(None).to_pylist()
    assert again.types == table.types


def test_a_mapped_table_whose_cache_is_gone_says_so(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("n\n1\n")
    pickled = pickle.dumps(read_table(path, cache=tmp_path / "cache"))
    for file in (tmp_path / "cache").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="is gone: the cache was emptied"):
        pickle.loads(pickled)


def test_the_fingerprint_changes_with_names_types_rows_and_values():
    base = {"x": list(range(100)), "y": ["a", "b"] * 50}
    fingerprints = {
        Table.of(base).fingerprint,
        Table.of({"z": base["x"], "y": base["y"]}).fingerprint,
        Table.of({"x": base["x"][::-1], "y": base["y"]}).fingerprint,
        Table.of({"x": base["x"][:99], "y": base["y"][:99]}).fingerprint,
        Table.from_arrow(pa.table(base), types={"x": ColumnType.CATEGORY}).fingerprint,
    }
    assert len(fingerprints) == 5
    chunked = pa.concat_tables([pa.table(base).slice(0, 30), pa.table(base).slice(30)])
    assert Table.of(chunked).fingerprint == Table.of(base).fingerprint


@pytest.mark.parametrize("mapped", [True, False])
def test_renamed_columns_keep_types_and_travel(tmp_path, mapped):
    if mapped:
        path = tmp_path / "x.csv"
        path.write_text("a,b\n1,x\n2,y\n")
        table = read_table(path)
    else:
        table = Table.of({"a": [1, 2], "b": ["x", "y"]})
    renamed = table.renamed({"b": "c"})
    assert renamed.columns == ("a", "c")
    assert renamed.types == {"a": "number", "c": "category"}
    again = pickle.loads(pickle.dumps(renamed))
    assert again.column("c").to_pylist() == ["x", "y"]
    assert again.locate(0) == table.locate(0)
    with pytest.raises(UserError, match="more than one column called 'a'"):
        table.renamed({"b": "a"})


def test_a_table_says_what_it_is():
    assert repr(Table.of({"x": [1, 2]})) == "Table('the table', 2 rows, 1 columns)"
