"""Cells of a table as series of numbers: lists, texts with a separator, or a column for each step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.column_types import is_list, is_number, is_text
from polytask.data.inputs.cells import UnreadableError

_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "?"})
_BRACKETS = "[](){} \t\r\n"
_ANY_SEPARATOR = re.compile(r"[,;\s]+")
_SHOWN = 40


class Series(NamedTuple):
    """Series of B rows, one after the other.

    Attributes:
        values: float64 `[total, C]`, NaN where a step is missing.
        lengths: int64 `[B]`: how many steps each row has; 0 for one that cannot be read.
        problems: Why rows cannot be read, by their position among the B.
    """

    values: np.ndarray
    lengths: np.ndarray
    problems: dict[int, str]


def series_in_steps(numbers: np.ndarray) -> Series:
    """Series of one channel from a column for each step; what is missing at the end of a row is not part of it.

    Args:
        numbers: float64 `[B, T]`, NaN where there is no value.
    """
    known = ~np.isnan(numbers)
    lengths = np.where(known.any(axis=1), numbers.shape[1] - known[:, ::-1].argmax(axis=1), 0)
    problems = {int(row): "there is no series: all steps are empty" for row in np.flatnonzero(lengths == 0)}
    kept = np.arange(numbers.shape[1]) < lengths[:, None]
    return Series(numbers[kept][:, None], lengths.astype(np.int64), problems)


def series_in_cells(columns: Sequence[pa.ChunkedArray], names: Sequence[str], separator: str | None) -> Series:
    """Series from columns of lists or texts; all of a row have the same number of steps.

    Args:
        columns: Each holds a channel, or (lists of lists) several.
        names: What messages call them.
        separator: What stands between the numbers of a text; None: commas, semicolons or spaces.

    Raises:
        UnreadableError: A column holds values of another kind.
    """
    parts = [_column(column.combine_chunks(), name, separator) for column, name in zip(columns, names, strict=True)]
    problems: dict[int, str] = {}
    for part, name in zip(parts, names, strict=True):
        for row, problem in part.problems.items():
            problems.setdefault(row, problem if len(names) == 1 else f"'{name}': {problem}")
        for row in np.flatnonzero(part.lengths != parts[0].lengths).tolist():
            problems.setdefault(
                row,
                f"'{names[0]}' has {parts[0].lengths[row]} steps and '{name}' {part.lengths[row]}: the channels of a "
                "row must be equally long",
            )
    bad = np.fromiter(problems, dtype=np.int64, count=len(problems))
    values = []
    for part in parts:
        good = np.ones(len(part.lengths), dtype=bool)
        good[bad] = False
        values.append(part.values[np.repeat(good, part.lengths)])
    lengths = parts[0].lengths.copy()
    lengths[bad] = 0
    return Series(np.concatenate(values, axis=1), lengths, problems)


def _column(column: pa.Array, name: str, separator: str | None) -> Series:
    storage = column.type
    if is_text(storage) or pa.types.is_null(storage):
        return _by_row(column.to_pylist(), lambda text: _parsed(text, separator))
    if is_list(storage):
        inner = storage.value_type
        if is_number(inner) or pa.types.is_boolean(inner) or pa.types.is_null(inner):
            return _plain_lists(column)
        if is_text(inner):
            return _by_row(column.to_pylist(), lambda cell: _as_floats(cell)[:, None])
        if is_list(inner) and is_number(inner.value_type):
            return _by_row(column.to_pylist(), _steps)
    raise UnreadableError(
        f"the column '{name}' holds {storage}, not series: lists of numbers, or texts of numbers with a separator"
    )


def _plain_lists(column: pa.Array) -> Series:
    """Lists of numbers, without looking at each row."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
    flat = pc.cast(pc.list_flatten(column), pa.float64(), safe=False)
    values = np.asarray(pc.fill_null(flat, float("nan")))
    problems = {int(row): "there is no series" for row in np.flatnonzero(np.asarray(pc.is_null(column)))}
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    known = np.bincount(row_of[~np.isnan(values)], minlength=len(lengths))
    for row in np.flatnonzero(known == 0):
        problems.setdefault(int(row), "the series is empty" if lengths[row] == 0 else "all steps are missing")
    for row in np.unique(row_of[np.isinf(values)]):
        problems[int(row)] = "the series has an infinite value"
    return Series(values[:, None], lengths, problems)


def _by_row(cells: Sequence[Any], read: Callable[[Any], np.ndarray]) -> Series:
    found, problems = [], {}
    channels = None
    for row, cell in enumerate(cells):
        try:
            if cell is None:
                raise UnreadableError("there is no series")
            values = _checked(read(cell), channels)
            channels = values.shape[1]
        except UnreadableError as error:
            problems[row] = str(error)
            values = np.empty((0, 0))
        found.append(values)
    lengths = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
    whole = [values for values in found if len(values)]
    return Series(np.concatenate(whole) if whole else np.empty((0, 1)), lengths, problems)


def _checked(values: np.ndarray, channels: int | None) -> np.ndarray:
    if not values.size:
        raise UnreadableError("the series is empty")
    if np.isnan(values).all():
        raise UnreadableError("all steps are missing")
    if np.isinf(values).any():
        raise UnreadableError("the series has an infinite value")
    if channels is not None and values.shape[1] != channels:
        raise UnreadableError(f"its steps have {values.shape[1]} numbers, but those of rows before it {channels}")
    return values


def _parsed(text: str, separator: str | None) -> np.ndarray:
    """A text of numbers, `[T, 1]`; brackets around it do not count."""
    inner = text.strip(_BRACKETS)
    if not inner:
        raise UnreadableError("the series is empty")
    parts = _ANY_SEPARATOR.split(inner) if separator is None or separator.isspace() else inner.split(separator)
    return _as_floats(parts)[:, None]


def _as_floats(parts: Sequence[str | None]) -> np.ndarray:
    try:
        return np.array(parts, dtype=np.float64)
    except (ValueError, TypeError):  # a missing step, or something else
        return np.array([_as_float(part, step) for step, part in enumerate(parts)], dtype=np.float64)


def _as_float(part: str | None, step: int) -> float:
    if part is None or part.strip().lower() in _MISSING:
        return float("nan")
    try:
        return float(part)
    except ValueError:
        shown = part if len(part) <= _SHOWN else f"{part[:_SHOWN]}..."
        raise UnreadableError(f"step {step + 1} is '{shown}', which is not a number") from None


def _steps(cell: Sequence[Sequence[float | None] | None]) -> np.ndarray:
    """Steps of several numbers each, `[T, C]`."""
    widths = {len(step) for step in cell if step is not None}
    if len(widths) > 1:
        raise UnreadableError(f"its steps have from {min(widths)} to {max(widths)} numbers, not all the same")
    blank = [None] * next(iter(widths), 0)
    return np.array([blank if step is None else step for step in cell], dtype=np.float64).reshape(len(cell), -1)
