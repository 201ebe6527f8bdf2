"""Words and n-grams of words as hashes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.encoded import Ragged

# What fastText multiplies a hash by before it adds the next word's.
_NEXT_WORD = np.uint64(116049371)


class WordNgrams:
    """Splits texts into words, and makes hashes of the words and of their n-grams.

    Punctuation marks are words of their own. A text's n-grams follow its words, the shorter ones first.

    Args:
        ngrams: The longest n-gram in words.
        words: Longer texts are cut after so many words.
        lowercase: Whether upper and lower case are one.
        hash_word: The hash of a word's UTF-8 bytes, at most 64 bits, the same in every process.

    Attributes:
        length: The greatest number of hashes of one text.
    """

    def __init__(self, ngrams: int, words: int, lowercase: bool, hash_word: Callable[[bytes], int]) -> None:
        self.length = sum(max(words - extra, 0) for extra in range(ngrams))
        self._ngrams = ngrams
        self._words = words
        self._lowercase = lowercase
        self._hash_word = hash_word

    def hashes(self, texts: pa.Array) -> Ragged:
        """uint64 hashes of each text (large strings, none null)."""
        words = self._word_hashes(texts)
        parts = [words]
        for extra in range(1, self._ngrams):
            lengths = np.maximum(words.lengths - extra, 0)
            shorter, last = parts[-1].window(0, lengths), words.window(extra, lengths)
            parts.append(Ragged(shorter.values * _NEXT_WORD + last.values, lengths))
        return _side_by_side(parts)

    def _word_hashes(self, texts: pa.Array) -> Ragged:
        texts = pc.utf8_normalize(texts, form="NFKC")
        texts = pc.utf8_lower(texts) if self._lowercase else texts
        texts = pc.replace_substring_regex(texts, pattern=r"([^\p{L}\p{M}\p{N}_\s])", replacement=r" \1 ")
        lists = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts))
        words = lists.flatten().dictionary_encode()
        indices = words.indices.to_numpy()
        spelled = words.dictionary.cast(pa.large_binary()).to_pylist()
        # Each different word is hashed once.
        codes = np.fromiter(map(self._hash_word, spelled), dtype=np.uint64, count=len(spelled))
        # Splitting an empty text gives one empty word.
        real = np.fromiter(map(bool, spelled), dtype=bool, count=len(spelled))[indices]
        rows = pc.list_parent_indices(lists).to_numpy()[real]
        lengths = np.bincount(rows, minlength=len(texts))
        position = np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]
        kept = position < self._words
        return Ragged(codes[indices[real][kept]], np.minimum(lengths, self._words))


def _side_by_side(parts: list[Ragged]) -> Ragged:
    """The rows' values of the first part, then of the second..., row by row."""
    rows = len(parts[0])
    order = np.arange(len(parts) * rows).reshape(len(parts), rows).T.ravel()
    mixed = Ragged.join(parts).select(order)
    return Ragged(mixed.values, mixed.lengths.reshape(rows, len(parts)).sum(axis=1))
