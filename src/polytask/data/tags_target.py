"""Targets of one tag for each word."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.class_names import class_names
from polytask.data.column_types import is_list, is_text
from polytask.data.encoded import Encoded, Ragged
from polytask.data.inputs.text import TextInput
from polytask.data.inputs.text_cells import split_words
from polytask.data.sequence_rows import SequenceTarget, Symbols
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input

log = logging.getLogger("polytask")


class TagsTarget(SequenceTarget):
    """One class for each word of a text, from lists or from text that is split at white space.

    A word without a tag has a null in its place. The words are those of a text input; those that it cuts off have no
    label.
    """

    _words: TextInput | None = None
    _told = False

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Target.columns`: the words too, whose number the tags must have."""
        return self.spec.columns if self._words is None else (*self.spec.columns, *self._words.columns)

    def follow(self, inputs: Mapping[str, Input]) -> None:
        """See `Target.follow`: find the input with the words."""
        found = {name: each for name, each in inputs.items() if isinstance(each, TextInput) and each.words}
        wanted = self.spec.words
        if wanted is None and len(found) == 1:
            (wanted,) = found
        if wanted in found:
            self._words = found[wanted]
            return
        what = f"Task '{self.task}' has a tag for each word"
        if wanted is not None:
            near = closest(wanted, found)
            reads = f"Inputs that do: {listing(found)}" if found else "There is none; set words: true in it"
            raise UserError(f"{what} of the input '{wanted}', which is no text read word by word.{near} {reads}.")
        if found:
            raise UserError(f"{what}, and several inputs have words: {listing(found)}. Name one: words: NAME.")
        raise UserError(f"{what}, but no text input is read word by word. Set words: true in it.")

    def meet(self, inputs: Mapping[str, Input]) -> None:
        """See `Target.meet`."""
        self.follow(inputs)

    def labelled(self, part: pa.Table, rows: np.ndarray, table: Table) -> np.ndarray:
        """See `Target.labelled`; the words are not needed for it."""
        symbols = self.symbols(part, rows, table)
        known = np.asarray(pc.is_valid(symbols.names))
        return np.bincount(np.repeat(np.arange(len(rows)), symbols.lengths)[known], minlength=len(rows)) > 0

    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoded:
        """See `Target.read`."""
        tags = super().read(part, rows, table)
        assert isinstance(tags, Ragged)
        if self._words is None:
            return tags
        given, read = self._words.count_words(part.select(list(self._words.columns)), rows, table)
        there = self.known(tags).numpy()
        self._check_numbers(tags.lengths, given, there & (given >= 0), rows, table)
        # Of rows without a text there is nothing to tag.
        kept = np.where(there, np.clip(read, 0, tags.lengths), np.minimum(tags.lengths, 1))
        cut = int((tags.lengths - kept)[there].sum())
        if cut and not self._told:
            self._told = True
            log.warning(
                "Task '%s': %d of the %d tags read so far belong to words behind the input's length, which it cuts "
                "off: they are left out.",
                self.task,
                cut,
                int(tags.lengths[there].sum()),
            )
        return tags.window(0, kept)

    def symbols(self, part: pa.Table, rows: np.ndarray, table: Table) -> Symbols:
        """See `SequenceTarget.symbols`."""
        column = self.spec.columns[0]
        values = part.column(column)
        there = ~np.asarray(pc.is_null(values))
        if is_list(values.type):
            lists = values.combine_chunks()
            lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
            return Symbols(class_names(pc.list_flatten(lists)), lengths, there)
        if not (is_text(values.type) or pa.types.is_null(values.type)):
            raise UserError(
                f"{table.source}: the column '{column}', the target of the task '{self.task}', holds {values.type}. "
                "Tags of words are lists, or text in which they are separated by spaces."
            )
        texts = pc.fill_null(values.cast(pa.large_string()).combine_chunks(), "")
        words = split_words(texts)
        return Symbols(class_names(words.words), words.lengths, there)

    def _check_numbers(
        self, tags: np.ndarray, words: np.ndarray, there: np.ndarray, rows: np.ndarray, table: Table
    ) -> None:
        wrong = np.flatnonzero(there & (tags != words))
        if len(wrong):
            assert self._words is not None
            row = int(wrong[0])
            raise UserError(
                f"{table.locate(int(rows[row]))}: '{self.spec.columns[0]}' (task '{self.task}') has {tags[row]} tags, "
                f"but '{self._words.columns[0]}' has {words[row]} words. Each word needs one tag; a word whose tag is "
                "not known has a null in a list. Mend the row, or empty the cell of its tags."
            )
