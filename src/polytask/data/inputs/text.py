"""Text in a column, as token ids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from polytask.data.column_types import is_image
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.encoded import Encoded, Encoding, Ragged
from polytask.data.inputs.hashed_words import HashedWords
from polytask.data.inputs.input import Input
from polytask.data.inputs.subwords import BYTES, SPECIAL, Subwords, load_pretrained, train_bpe
from polytask.data.inputs.tokenizer import Tokenizer
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.shapes import TextShape

log = logging.getLogger("polytask")


class TextInput(Input):
    """Text as token ids, `{"ids": int64 [B, T], "mask": bool [B, T]}` with T the batch's longest text.

    Args:
        column: The column.
        tokenizer: `bpe`: parts of words, learned from the training part. `words`: words and n-grams of words as
            hashes, as fastText does; nothing is learned. Else a pretrained tokenizer: a `tokenizer.json`, a folder
            with one, or a name on the Hugging Face hub.
        vocabulary: The greatest number of tokens of `bpe`.
        length: The greatest number of tokens (of `words`: of words); longer texts are cut.
        lowercase: Whether upper and lower case are one; a pretrained tokenizer decides that itself.
        ngrams: The longest n-gram of `words`; a text's n-grams follow its words.
        buckets: How many ids `words` has; different words may fall on the same id.

    Raises:
        UserError: A parameter is out of range.
    """

    modality: ClassVar[Literal["text"]] = "text"

    def __init__(
        self,
        column: str,
        *,
        tokenizer: str = "bpe",
        vocabulary: int = 16_000,
        length: int = 256,
        lowercase: bool = True,
        ngrams: int = 1,
        buckets: int = 100_000,
    ) -> None:
        smallest = BYTES + len(SPECIAL)
        if tokenizer == "bpe" and vocabulary < smallest:
            raise UserError(
                f"The vocabulary is {vocabulary}, but every byte is a token: it must be at least {smallest}."
            )
        for name, value in (("length", length), ("ngrams", ngrams), ("buckets", buckets)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be at least 1.")
        if ngrams > 1 and tokenizer != "words":
            raise UserError(
                f"ngrams is {ngrams}, but only the tokenizer 'words' makes n-grams, and this is '{tokenizer}'."
            )
        self.column = column
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.length = length
        self.lowercase = lowercase
        self.ngrams = ngrams
        self.buckets = buckets
        self._fitted: Tokenizer | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """See `Input.named`."""
        return (self.column,)

    @property
    def shape(self) -> TextShape:
        """See `Input.shape`."""
        tokenizer = self._tokenizer
        return TextShape(tokenizer.vocabulary, tokenizer.length, tokenizer.padding)

    def fit(self, table: Table, rows: np.ndarray) -> None:
        """See `Input.fit`."""
        if self.tokenizer == "words":
            self._fitted = self._hashed_words()
        elif self.tokenizer == "bpe":
            self._fitted = Subwords(train_bpe(self._texts(table, rows), self.vocabulary, self.lowercase), self.length)
        else:
            self._fitted = load_pretrained(self.tokenizer, self.length)

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """See `Input.encode`."""
        tokens = self._tokenizer.encode(self._strings(part, rows, table))
        empty = tokens.lengths == 0
        if empty.any():
            tokens = tokens.filled(empty, self._tokenizer.unknown)
        return Encoding(tokens, empty=int(empty.sum()))

    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> dict[str, Tensor]:
        """See `Input.collate`."""
        assert isinstance(values, Ragged)
        ids, mask = values.padded(self._tokenizer.padding)
        return {"ids": ids, "mask": mask}

    @property
    def row_bytes(self) -> int:
        """See `Input.row_bytes`."""
        return 4 * self._tokenizer.length + 16

    def state_dict(self) -> dict[str, Any]:
        """See `Input.state_dict`."""
        tokenizer = self._tokenizer
        state: dict[str, Any] = {"columns": list(self.columns)}
        if isinstance(tokenizer, Subwords):
            state |= {"tokenizer": tokenizer.text, "length": tokenizer.length, "padding": tokenizer.padding}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Input.load_state_dict`."""
        self.columns = tuple(state["columns"])
        if "tokenizer" in state:
            self._fitted = Subwords(state["tokenizer"], state["length"], state["padding"])
        else:
            self._fitted = self._hashed_words()

    @property
    def _tokenizer(self) -> Tokenizer:
        if self._fitted is None:
            raise RuntimeError(f"The text input of the column '{self.column}' is not fitted yet.")
        return self._fitted

    def _hashed_words(self) -> HashedWords:
        return HashedWords(self.buckets, self.ngrams, self.length, self.lowercase)

    def _texts(self, table: Table, rows: np.ndarray) -> Iterator[list[str]]:
        for positions, part in table.batches(self.columns, rows):
            yield self._strings(part, positions, table).to_pylist()

    def _strings(self, part: pa.Table, rows: np.ndarray, table: Table) -> pa.Array:
        column = part.column(self.column)
        if pa.types.is_nested(column.type) or is_image(column.type):
            raise UserError(f"{table.source}: the column '{self.column}' holds {column.type}, not text.")
        if column.null_count:
            row = int(rows[pc.index(pc.is_null(column), True).as_py()])
            raise UserError(
                f"{table.locate(row)}: '{self.column}' is empty, and there is nothing else to predict from. "
                "Fill the cell, or remove the row."
            )
        return column.cast(pa.large_string()).combine_chunks()
