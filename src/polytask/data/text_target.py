"""Targets of texts that are spelled out: letters or words in an order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.data.column_types import is_image
from polytask.data.encoded import Encoded, Ragged
from polytask.data.inputs.text_cells import split_words
from polytask.data.sequence_rows import NO_LIST, SequenceTarget, Symbols
from polytask.data.table import Table
from polytask.errors import UserError


class TextTarget(SequenceTarget):
    """A text a row, as its characters or its words; white space is one space between two words, and none at the ends.

    An empty text is a label like others; an empty cell is none.
    """

    def known(self, values: Encoded) -> Tensor:
        """See `Target.known`: the rows with a text, be it empty."""
        assert isinstance(values, Ragged)
        rows = np.repeat(np.arange(len(values)), values.lengths)
        return torch.from_numpy(np.bincount(rows[values.values == NO_LIST], minlength=len(values)) == 0)

    def symbols(self, part: pa.Table, rows: np.ndarray, table: Table) -> Symbols:
        """See `SequenceTarget.symbols`."""
        column = self.spec.columns[0]
        values = part.column(column)
        if pa.types.is_nested(values.type) or is_image(values.type):
            raise UserError(
                f"{table.source}: the column '{column}', the target of the task '{self.task}', holds {values.type}, "
                "not text."
            )
        there = ~np.asarray(pc.is_null(values))
        texts = pc.fill_null(values.cast(pa.large_string()).combine_chunks(), "")
        if self.spec.unit == "words":
            words = split_words(texts)
            return Symbols(words.words, words.lengths, there)
        plain = pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), pattern=r"\s+", replacement=" ").to_pylist()
        lengths = np.fromiter(map(len, plain), dtype=np.int64, count=len(plain))
        letters = pa.array([letter for text in plain for letter in text], pa.large_string())
        return Symbols(letters, lengths, there)
