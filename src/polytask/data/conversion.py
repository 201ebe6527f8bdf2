"""Values of one kind read as another, with the first value that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.class_names import class_names
from polytask.data.column_types import ColumnType, is_date, is_image, is_list, is_number, is_text, plain_type
from polytask.errors import UserError

Values: TypeAlias = pa.ChunkedArray | pa.Array

_TRUE = pa.array(["true", "yes", "t", "y", "1"])
_FALSE = pa.array(["false", "no", "f", "n", "0"])

_MEANING = {
    ColumnType.NUMBER: "a number",
    ColumnType.BOOLEAN: "true or false",
    ColumnType.DATE: "a date (write 2026-01-31, or 2026-01-31 10:30:00)",
    ColumnType.IMAGE: "an image's path or bytes",
    ColumnType.AUDIO: "a recording's path or bytes",
    ColumnType.LIST: "a list, nor text with a separator",
    ColumnType.CATEGORY: "a category's name",
    ColumnType.TEXT: "text",
}


class BadValue(ValueError):
    """A value that cannot be read as what was asked for.

    Attributes:
        index: Its position in the values that were given.
    """

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(problem)
        self.index = index


def bad_type(where: str, column: str, wanted: ColumnType, error: BadValue) -> UserError:
    """The error for a column whose type the user set to one that its values do not have."""
    return UserError(
        f"{where}, column '{column}': {error}. The column's type is set to '{wanted.value}': "
        "mend or empty the value, or set another type."
    )


def as_numbers(values: Values, where: Callable[[int], str]) -> np.ndarray:
    """A column as float64, NaN where it is missing.

    Args:
        values: N values: numbers, booleans (0 and 1), or strings that hold numbers.
        where: Says where the value at a position in `values` stands: `"reviews.csv, row 17 (line 18), column 'stars'"`.

    Returns:
        `[N]`, a copy.

    Raises:
        UserError: A value is not a number, or is infinite.
    """
    try:
        numbers = convert(values, ColumnType.NUMBER)
    except BadValue as error:
        raise UserError(
            f"{where(error.index)}: {error}. Mend the value, leave it empty, or do not use the column as a number."
        ) from error
    result = np.array(pc.cast(numbers, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    infinite = np.isinf(result)
    if infinite.any():
        index = int(infinite.argmax())
        raise UserError(f"{where(index)}: {result[index]} is not a finite number. Mend the value, or leave it empty.")
    return result


def changes_storage(storage: pa.DataType, wanted: ColumnType) -> bool:
    """Whether `convert` makes other values of this Arrow type, and not just gives them another meaning."""
    fitting = {
        ColumnType.NUMBER: is_number,
        ColumnType.BOOLEAN: pa.types.is_boolean,
        ColumnType.DATE: is_date,
        ColumnType.IMAGE: lambda kind: is_text(kind) or is_image(kind),
        ColumnType.AUDIO: lambda kind: is_text(kind) or is_image(kind),
        ColumnType.LIST: lambda kind: is_text(kind) or is_list(kind),
        ColumnType.CATEGORY: lambda kind: not (is_list(kind) or is_image(kind) or pa.types.is_nested(kind)),
        ColumnType.TEXT: is_text,
    }
    return wanted in fitting and not fitting[wanted](plain_type(storage))


def convert(values: Values, wanted: ColumnType) -> Values:
    """Values of a plain Arrow type that suits `wanted`: the values themselves where they do already.

    Strings become int64 never, float64 for `NUMBER`, bool for `BOOLEAN` (yes and no, t and f, 1 and 0 count), and
    timestamps for `DATE`. Anything but lists, images and records becomes strings for `TEXT`.

    Raises:
        BadValue: The first value that cannot be read so.
    """
    plain = plain_type(values.type)
    if plain != values.type:
        values = pc.cast(values, plain)
    if not changes_storage(plain, wanted):
        return values
    if values.null_count == len(values):
        nulls = pa.nulls(len(values), _EMPTY.get(wanted, pa.string()))
        return pa.chunked_array([nulls]) if isinstance(values, pa.ChunkedArray) else nulls
    if wanted is ColumnType.NUMBER and (is_text(plain) or pa.types.is_boolean(plain)):
        return _parse(values, wanted, _to_float)
    if wanted is ColumnType.BOOLEAN and (is_text(plain) or is_number(plain)):
        return _parse(values, wanted, _to_boolean)
    if wanted is ColumnType.DATE and is_text(plain):
        return _parse(values, wanted, _to_date)
    if wanted is ColumnType.TEXT and not (pa.types.is_nested(plain) or is_image(plain)):
        return pc.cast(values, pa.string())
    index = pc.index(pc.is_valid(values), True).as_py()
    raise BadValue(index, _problem(values[index], wanted))


def convert_columns(data: pa.Table, types: Mapping[str, ColumnType], locate: Callable[[int], str]) -> pa.Table:
    """A table with columns converted to the types that the user set.

    Args:
        data: The table.
        types: By column; others stay as they are.
        locate: Says where a row stands, by its position.

    Raises:
        UserError: A value cannot be read so.
    """
    fields, values = list(data.schema), list(data.columns)
    for position, field in enumerate(fields):
        wanted = types.get(field.name)
        if wanted is not None and changes_storage(field.type, wanted):
            try:
                values[position] = convert(values[position], wanted)
            except BadValue as error:
                raise bad_type(locate(error.index), field.name, wanted, error) from error
            fields[position] = pa.field(field.name, values[position].type)
    return pa.Table.from_arrays(values, schema=pa.schema(fields, metadata=data.schema.metadata))


def stored_as(values: pa.ChunkedArray, storage: pa.DataType) -> pa.ChunkedArray:
    """Values of one Arrow type as another that can hold them; numbers become text as the names of classes do."""
    plain = plain_type(values.type)
    if plain != values.type:
        values = pc.cast(values, plain)
    if is_text(storage) and not is_text(plain):
        return pc.cast(pa.chunked_array([class_names(values)]), storage)
    return values if plain == storage else pc.cast(values, storage, safe=False)


_EMPTY = {
    ColumnType.NUMBER: pa.float64(),
    ColumnType.BOOLEAN: pa.bool_(),
    ColumnType.DATE: pa.timestamp("us"),
    ColumnType.LIST: pa.list_(pa.string()),
}


def _parse(values: Values, wanted: ColumnType, parse: Callable[[Values], Values]) -> Values:
    try:
        return parse(values)
    except pa.ArrowInvalid:
        index = _first_failure(values, parse)
        raise BadValue(index, _problem(values[index], wanted)) from None


def _first_failure(values: Values, parse: Callable[[Values], Values]) -> int:
    """The position of the first value that does not parse, by halving: every value is read about twice."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            parse(values.slice(low, middle - low))
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _to_float(values: Values) -> Values:
    if is_text(values.type):
        values = pc.utf8_trim_whitespace(values)
    return pc.cast(values, pa.float64())


def _to_boolean(values: Values) -> Values:
    if is_text(values.type):
        values = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        true, false = pc.is_in(values, value_set=_TRUE), pc.is_in(values, value_set=_FALSE)
    else:
        true, false = pc.equal(values, 1), pc.equal(values, 0)
    missing = pc.is_null(values, nan_is_null=True)
    if not pc.all(pc.or_kleene(pc.or_kleene(true, false), missing)).as_py():
        raise pa.ArrowInvalid("not all values are true or false")
    return pc.if_else(missing, None, true)


def _to_date(values: Values) -> Values:
    text = pc.utf8_trim_whitespace(values)
    try:
        return pc.cast(text, pa.timestamp("us"))
    except pa.ArrowInvalid:
        # Moments with a time zone come as UTC: what is compared or sorted later must be the same clock.
        moments = pc.cast(text, pa.timestamp("us", "UTC"))
        return pc.cast(moments, pa.timestamp("us"))


def _problem(value: pa.Scalar, wanted: ColumnType) -> str:
    shown = repr(value.as_py())
    if len(shown) > 60:
        shown = f"{shown[:57]}..."
    return f"{shown} is not {_MEANING[wanted]}"
