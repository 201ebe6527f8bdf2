import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.data.column_types import ColumnType
from polytask.data.conversion import BadValue, as_numbers, changes_storage, convert
from polytask.errors import UserError


def where(index):
    return f"t.csv, row {index + 1}, column 'x'"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, None, 3]), [1, np.nan, 3]),
        (pa.array([1.5, float("nan"), None]), [1.5, np.nan, np.nan]),
        (pa.array([True, False, None]), [1, 0, np.nan]),
        (pa.array([" 1", "2.5 ", None, "-3e2"]), [1, 2.5, np.nan, -300]),
        (pa.array([Decimal("1.25"), None]), [1.25, np.nan]),
        (pa.array(["7", "8"]).dictionary_encode(), [7, 8]),
        (pa.array([None, None]), [np.nan, np.nan]),
        (pa.array([2**60 + 1]), [2.0**60]),
        (pa.chunked_array([[1, 2], [], [3]]), [1, 2, 3]),
    ],
)
def test_numbers_come_as_float64_with_nan_where_missing(values, expected):
    numbers = as_numbers(values, where)
    assert numbers.dtype == np.float64
    assert numbers.flags.writeable
    np.testing.assert_array_equal(numbers, np.array(expected, dtype=float))


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))))
def test_numbers_written_as_text_come_back(values):
    text = pa.array([None if value is None else repr(value) for value in values], pa.string())
    expected = np.array([np.nan if value is None else value for value in values], dtype=float)
    np.testing.assert_array_equal(as_numbers(text, where), expected)


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_first_value_that_is_no_number_is_named(before, after):
    values = pa.chunked_array([["1"] * before, [None, "abc"], ["2", "def"] * after], pa.string())
    with pytest.raises(UserError, match=rf"^t\.csv, row {before + 2}, column 'x': 'abc' is not a number\."):
        as_numbers(values, where)


@pytest.mark.parametrize("values", [pa.array([1.0, float("inf")]), pa.array(["1", "-inf"])])
def test_infinite_numbers_are_refused(values):
    with pytest.raises(UserError, match=r"row 2, column 'x': -?inf is not a finite number"):
        as_numbers(values, where)


@pytest.mark.parametrize("values", [pa.array([None, ["a"]]), pa.array([None, datetime.date(2026, 1, 1)])])
def test_what_can_never_be_a_number_names_its_first_value(values):
    with pytest.raises(UserError, match=r"row 2, column 'x': .* is not a number"):
        as_numbers(values, where)


@pytest.mark.parametrize(
    ("values", "wanted", "expected"),
    [
        (["yes", "No", " TRUE", "f", "1", None], "boolean", [True, False, True, False, True, None]),
        ([1, 0, None], "boolean", [True, False, None]),
        ([1.0, float("nan"), 0.0], "boolean", [True, None, False]),
        (["2026-01-31", None], "date", [datetime.datetime(2026, 1, 31), None]),
        (["2026-01-31T10:00:00+02:00"], "date", [datetime.datetime(2026, 1, 31, 8)]),
        ([1, 2], "text", ["1", "2"]),
        ([1, 2], "category", [1, 2]),
        (["a|b"], "list", ["a|b"]),
        ([["a"]], "list", [["a"]]),
        (["a.jpg"], "image", ["a.jpg"]),
        ([b"bytes"], "image", [b"bytes"]),
        ([{"a": 1}], "other", [{"a": 1}]),
        (["5", None], "number", [5.0, None]),
    ],
)
def test_values_are_read_as_the_type_that_is_wanted(values, wanted, expected):
    assert convert(pa.array(values), ColumnType(wanted)).to_pylist() == expected


@pytest.mark.parametrize("wanted", [kind for kind in ColumnType if kind is not ColumnType.OTHER])
def test_a_column_without_values_takes_any_type(wanted):
    converted = convert(pa.nulls(3), wanted)
    assert converted.null_count == 3
    assert not changes_storage(converted.type, wanted)


@pytest.mark.parametrize(
    ("values", "wanted", "index", "message"),
    [
        (["yes", None, "maybe"], "boolean", 2, "'maybe' is not true or false"),
        ([0, 1, 2], "boolean", 2, "2 is not true or false"),
        (["2026-01-31", "31.1.2026"], "date", 1, "'31.1.2026' is not a date"),
        ([None, 5], "image", 1, "5 is not an image's path or bytes"),
        ([5], "list", 0, "5 is not a list"),
        ([[1]], "category", 0, "is not a category's name"),
        ([{"a": 1}], "text", 0, "is not text"),
        ([b"x"], "text", 0, "is not text"),
        ([True], "date", 0, "True is not a date"),
        (["x" * 200], "number", 0, "'x{56}\\.\\.\\. is not a number"),
    ],
)
def test_values_that_cannot_be_read_so_are_named(values, wanted, index, message):
    with pytest.raises(BadValue, match=message) as error:
        convert(pa.array(values), ColumnType(wanted))
    assert error.value.index == index


def test_whether_storage_changes():
    assert not changes_storage(pa.int64(), ColumnType.CATEGORY)
    assert not changes_storage(pa.dictionary(pa.int8(), pa.string()), ColumnType.TEXT)
    assert changes_storage(pa.string(), ColumnType.NUMBER)
    assert changes_storage(pa.int64(), ColumnType.TEXT)
    assert not changes_storage(pa.struct([]), ColumnType.OTHER)
