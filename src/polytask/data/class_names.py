"""Values of any column as the names of classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc


def class_names(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The values as text, the same for every type that may hold them: `1` and `1.0` are "1", True is "true".

    Args:
        column: Text, numbers, booleans, dates, or dictionary-encoded values of these.

    Returns:
        Strings, null where there is no value (null, not a number, or empty text).
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_decimal(array.type) or pa.types.is_float16(array.type):
        array = array.cast(pa.float64())
    text = _numbers_as_text(array) if pa.types.is_floating(array.type) else array.cast(pa.large_string())
    return pc.if_else(pc.equal(text, ""), None, text)


def _numbers_as_text(array: pa.Array) -> pa.Array:
    # Whole numbers the way integers are written: Arrow writes 1e15 as "1e+15".
    array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    whole = pc.and_(pc.equal(array, pc.floor(array)), pc.less(pc.abs(array), 2.0**53))
    integers = pc.if_else(whole, array, pa.scalar(0, array.type)).cast(pa.int64())
    return pc.if_else(whole, integers.cast(pa.large_string()), array.cast(pa.large_string()))


def count_names(names: pa.Array) -> Counter[str]:
    """How often each name occurs."""
    counts = pc.value_counts(names.drop_null())
    return Counter(dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in their natural order: as numbers where all are numbers, else as text."""
    names = list(names)
    try:
        return tuple(sorted(names, key=lambda name: (_finite(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _finite(name: str) -> float:
    number = float(name)
    if not math.isfinite(number):
        raise ValueError(name)
    return number
