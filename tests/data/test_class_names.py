import datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.data.class_names import class_names, count_names, in_order


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([3, None, -1], pa.int8()), ["3", None, "-1"]),
        (pa.array([1.0, 2.5, float("nan"), None, -0.0]), ["1", "2.5", None, None, "0"]),
        (pa.array([1e15, 1e300, float("inf")]), ["1000000000000000", "1e+300", "inf"]),
        (pa.array([0.1, 2.0], pa.float32()), ["0.1", "2"]),
        (pa.array([Decimal("1.50"), Decimal("2.00")]), ["1.5", "2"]),
        (pa.array(["b", "", None, " a"]), ["b", None, None, " a"]),
        (pa.array(["x", "y", "x", None]).dictionary_encode(), ["x", "y", "x", None]),
        (pa.array([datetime.date(2026, 1, 31)]), ["2026-01-31"]),
        (pa.array([None, None]), [None, None]),
        (pa.array([], pa.string()), []),
    ],
)
def test_values_of_all_types_have_names(values, expected):
    assert class_names(values).to_pylist() == expected


def test_chunks_do_not_matter():
    column = pa.chunked_array([["a", "b"], [], ["c"]], pa.string())
    assert class_names(column).to_pylist() == ["a", "b", "c"]


@given(st.lists(st.one_of(st.none(), st.integers(-(2**53) + 1, 2**53 - 1))))
def test_whole_floats_have_the_names_of_integers(numbers):
    integers = class_names(pa.array(numbers, pa.int64()))
    floats = class_names(pa.array([None if n is None else float(n) for n in numbers], pa.float64()))
    assert integers.to_pylist() == floats.to_pylist()


def test_names_are_counted_without_missing_ones():
    assert count_names(class_names(pa.array(["a", None, "b", "a"]))) == {"a": 2, "b": 1}


def test_numbers_are_ordered_by_value_and_other_names_as_text():
    assert in_order(["10", "9", "-1.5"]) == ("-1.5", "9", "10")
    assert in_order(["10", "9", "b"]) == ("10", "9", "b")
    assert in_order(["nan", "2", "10"]) == ("10", "2", "nan")
