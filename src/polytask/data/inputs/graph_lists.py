"""Lists in cells of a table as nodes and edges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.column_types import is_list, is_text, plain_type
from polytask.errors import UserError

_SHOWN = 60


class Items(NamedTuple):
    """Lists of items in B cells, and their parts by name.

    Attributes:
        counts: int64 `[B]`: how many items each cell has; 0 where it has a problem.
        parts: The values of all items by the name of the part: of records the field's, of lists the position ("0",
            "1"...), of plain values "0".
        problems: What is wrong with a cell, by its place.
    """

    counts: np.ndarray
    parts: Mapping[str, pa.Array]
    problems: Mapping[int, str]

    def without(self, cells: np.ndarray) -> Items:
        """The same, but with no items in some `cells`, bool `[B]`."""
        kept = pa.array(np.repeat(~cells, self.counts))
        return Items(
            np.where(cells, 0, self.counts), {name: part.filter(kept) for name, part in self.parts.items()}, {}
        )


def items_of(cells: pa.ChunkedArray, column: str, source: str, width: int | None = None) -> Items:
    """The items of lists in cells: `[[1, 0.5], [2, 0.1]]`, `[{"kind": "C"}, {"kind": "O"}]` or `["C", "O"]`.

    Args:
        cells: Lists, or text that holds lists as JSON.
        column: The column's name, for messages.
        source: The table's, likewise.
        width: How many values an item has that is itself a list; None: as many as the first.

    Raises:
        UserError: The column holds something else.
    """
    values = cells.combine_chunks()
    values = values.cast(plain_type(values.type)) if plain_type(values.type) != values.type else values
    problems: dict[int, str] = {}
    if is_text(values.type):
        values = _parsed(values, column, source, problems)
    if pa.types.is_null(values.type):
        values = values.cast(pa.list_(pa.null()))
    if not is_list(values.type):
        raise UserError(
            f"{source}: the column '{column}' holds {values.type}, not lists. In a CSV file, write them as "
            '"[[0, 1], [1, 2]]"; name another column otherwise.'
        )
    for place in np.flatnonzero(np.asarray(values.is_null())):
        problems.setdefault(int(place), f"'{column}' is empty")
    counts = np.asarray(pc.list_value_length(values).fill_null(0)).astype(np.int64)
    items = values.flatten()
    if is_list(items.type):
        return _of_lists(items, counts, width, column, problems)
    found = Items(counts, _fields(items) if pa.types.is_struct(items.type) else {"0": items}, {})
    return found._replace(problems=problems)


def _fields(items: pa.StructArray) -> dict[str, pa.Array]:
    return dict(zip((field.name for field in items.type), items.flatten(), strict=True))


def _of_lists(items: pa.Array, counts: np.ndarray, width: int | None, column: str, problems: dict[int, str]) -> Items:
    widths = np.asarray(pc.list_value_length(items).fill_null(-1)).astype(np.int64)
    cell_of = np.repeat(np.arange(len(counts)), counts)
    if width is None:
        width = int(widths[0]) if len(widths) else 0
    for item in np.flatnonzero(widths != width):
        cell = int(cell_of[item])
        number = item - int(counts[:cell].sum())
        has = "is empty" if widths[item] < 0 else f"has {widths[item]} values"
        problems.setdefault(cell, f"item {number} of '{column}' {has}, where others have {width}")
    good = ~np.isin(np.arange(len(counts)), cell_of[widths != width])
    values = items.filter(pa.array(good[cell_of])).flatten()
    total = len(values) // width if width else 0
    parts = {str(place): values.take(pa.array(np.arange(total) * width + place)) for place in range(width)}
    return Items(np.where(good, counts, 0), parts, problems)


def _parsed(values: pa.Array, column: str, source: str, problems: dict[int, str]) -> pa.Array:
    """Lists written as text."""
    found: list[Any] = []
    for place, text in enumerate(values.to_pylist()):
        item = None
        if text is not None and text.strip():
            try:
                item = json.loads(text)
            except ValueError:
                item = text
            if not isinstance(item, list):
                shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
                problems[place] = f"'{column}' is {shown!r}, which is no list"
                item = None
        found.append(item)
    try:
        parsed = pa.array(found)
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"{source}, column '{column}': its lists do not hold values of one kind ({error}).") from error
    return parsed if is_list(parsed.type) else parsed.cast(pa.list_(pa.null()))
