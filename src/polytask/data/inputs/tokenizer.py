"""What a tokenizer is: texts to token ids."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pyarrow as pa

from polytask.data.encoded import Ragged
from polytask.data.inputs.text_cells import WordLists

NO_WORD = -1
"""The number of the word of tokens that are part of none."""


class Tokenizer(ABC):
    """Turns texts into ids.

    Attributes:
        vocabulary: The number of ids.
        padding: The id that fills short texts.
        unknown: The id that stands for a text without tokens.
        length: The greatest number of ids that `encode` gives a text.
        parts: The number of ids of each token.
        mask: The id that hides a token; None: that of unknown ones does.
        special: The ids that stand for no part of a text.
    """

    vocabulary: int
    padding: int
    unknown: int
    length: int
    parts: int = 1
    mask: int | None = None

    @property
    def special(self) -> frozenset[int]:
        """See the attributes."""
        return frozenset({self.padding, self.unknown})

    @abstractmethod
    def encode(self, texts: pa.Array) -> Ragged:
        """The ids of each text (large strings, none null), at most `length`; none for a text without tokens."""

    def encode_pairs(self, first: pa.Array, second: pa.Array) -> Ragged:
        """The tokens of two texts a row, at most `length`; of which the longer one is cut first.

        Args:
            first: Large strings, none null.
            second: Large strings, none null; an empty one is none.

        Returns:
            int32 `[total, 2]`: the id and the number of the text, 0 or 1, of each token.
        """
        return _one_after_the_other(self.encode(first), self.encode(second), self.length)


class WordTokenizer(Tokenizer):
    """One that can read texts word by word."""

    @abstractmethod
    def encode_words(self, words: WordLists) -> Ragged:
        """The tokens of texts that are given in words, at most `length` a text.

        Returns:
            int32 `[total, parts + 1]`: the ids of each token, and the number of its word in the text, or `NO_WORD`.
        """


def _one_after_the_other(first: Ragged, second: Ragged, length: int) -> Ragged:
    """The tokens of both texts of each row, with the number of the text."""
    kept = np.minimum(first.lengths, np.maximum(length - second.lengths, (length + 1) // 2))
    left = np.minimum(second.lengths, length - kept)
    marked = [
        Ragged(np.stack([part.values, np.full_like(part.values, number)], axis=1), part.lengths)
        for number, part in enumerate([first.window(0, kept), second.window(0, left)])
    ]
    order = np.arange(2 * len(first)).reshape(2, -1).T.ravel()
    mixed = Ragged.join(marked).select(order)
    return Ragged(mixed.values, mixed.lengths.reshape(-1, 2).sum(axis=1))
