"""Cells of text: whole texts, and texts that are given word by word."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.column_types import is_image, is_list, is_text
from polytask.data.table import Table
from polytask.errors import UserError


class WordLists(NamedTuple):
    """The words of some rows, one after the other.

    Attributes:
        words: Large strings, none null.
        lengths: int64 `[B]`: how many words each row has.
    """

    words: pa.Array
    lengths: np.ndarray


def texts_of(part: pa.Table, column: str, rows: np.ndarray, table: Table) -> pa.Array:
    """A column's texts, large strings.

    Args:
        part: The rows' columns.
        column: The column.
        rows: int64 `[B]`: their positions in `table`.
        table: Where they come from, for messages.

    Raises:
        UserError: A cell is empty, or the column holds no text.
    """
    values = part.column(column)
    if pa.types.is_nested(values.type) or is_image(values.type):
        words = is_list(values.type) and is_text(values.type.value_type)
        remedy = " Lists of words are read with words: true in the input." if words else ""
        raise UserError(f"{table.source}: the column '{column}' holds {values.type}, not text.{remedy}")
    refuse_empty(values, column, rows, table)
    return values.cast(pa.large_string()).combine_chunks()


def optional_texts(part: pa.Table, column: str, rows: np.ndarray, table: Table) -> pa.Array:
    """A column's texts, `""` where there is none; for parameters and errors see `texts_of`."""
    values = part.column(column)
    if pa.types.is_null(values.type):
        return pa.array([""] * len(values), pa.large_string())
    if not pa.types.is_nested(values.type):
        values = pc.fill_null(values.cast(pa.large_string()), "")
    index = part.schema.get_field_index(column)
    return texts_of(part.set_column(index, column, values), column, rows, table)


def words_of(part: pa.Table, column: str, rows: np.ndarray, table: Table) -> WordLists:
    """A column's words: those of lists, or of text that is split at white space; for parameters see `texts_of`.

    Raises:
        UserError: A cell is empty, or the column holds neither.
    """
    values = part.column(column)
    if is_list(values.type) and (is_text(values.type.value_type) or pa.types.is_null(values.type.value_type)):
        refuse_empty(values, column, rows, table)
        lists = values.combine_chunks()
        # A word that is null is one without a letter: it has a place in the text, and a label.
        words = pc.fill_null(pc.list_flatten(lists).cast(pa.large_string()), "")
        return WordLists(words, np.asarray(pc.list_value_length(lists)).astype(np.int64))
    return split_words(texts_of(part, column, rows, table))


def split_words(texts: pa.Array) -> WordLists:
    """Texts (large strings, none null) split at white space."""
    trimmed = pc.utf8_trim_whitespace(texts)
    lists = pc.utf8_split_whitespace(trimmed)
    lengths = np.asarray(pc.list_value_length(lists)).astype(np.int64)
    # Splitting an empty text gives one empty word.
    empty = np.asarray(pc.equal(trimmed, ""))
    words = lists.flatten()
    if empty.any():
        words = words.filter(pa.array(~np.repeat(empty, lengths)))
        lengths = np.where(empty, 0, lengths)
    return WordLists(words.cast(pa.large_string()), lengths)


def refuse_empty(values: pa.ChunkedArray, column: str, rows: np.ndarray, table: Table) -> None:
    """Refuse rows without a value; for parameters see `texts_of`.

    Raises:
        UserError: There is one.
    """
    if values.null_count:
        row = int(rows[pc.index(pc.is_null(values), True).as_py()])
        reason, ways = table.absence(row, column)
        raise UserError(
            f"{table.locate(row)}: '{column}' is empty, and there is nothing else to predict from{reason}. "
            f"{ways[0]}, or {ways[1]}."
        )
