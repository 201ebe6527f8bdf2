"""Words and word n-grams as hashes: text without anything to train."""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.inputs.encoded import Ragged
from polytask.data.inputs.tokenizer import Tokenizer

# What fastText multiplies a hash by before it adds the next word's.
_NEXT_WORD = np.uint64(116049371)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class HashedWords(Tokenizer):
    """Hashed words and n-grams (Joulin et al., "Bag of Tricks for Efficient Text Classification", EACL 2017).

    Id 0 is padding, and a text without words is one padding id. Punctuation marks are words of their own.

    Args:
        buckets: How many values the hashes have: ids 1 to `buckets`.
        ngrams: The longest n-gram in words. A text's n-grams follow its words, the shorter ones first.
        words: Longer texts are cut after so many words.
        lowercase: Whether upper and lower case are one.
    """

    padding = 0
    unknown = 0

    def __init__(self, buckets: int, ngrams: int, words: int, lowercase: bool) -> None:
        self.vocabulary = buckets + 1
        self.length = sum(max(words - extra, 0) for extra in range(ngrams))
        self._buckets = np.uint64(buckets)
        self._ngrams = ngrams
        self._words = words
        self._lowercase = lowercase

    def encode(self, texts: pa.Array) -> Ragged:
        """See `Tokenizer.encode`."""
        words = self._word_hashes(texts)
        parts = [words]
        for extra in range(1, self._ngrams):
            lengths = np.maximum(words.lengths - extra, 0)
            shorter, last = parts[-1].window(0, lengths), words.window(extra, lengths)
            parts.append(Ragged(shorter.values * _NEXT_WORD + last.values, lengths))
        hashes = _side_by_side(parts)
        # The high bits of a product are the well mixed ones.
        ids = np.uint64(1) + ((hashes.values * _SPREAD) >> np.uint64(16)) % self._buckets
        return Ragged(ids.astype(np.int32), hashes.lengths)

    def _word_hashes(self, texts: pa.Array) -> Ragged:
        texts = pc.utf8_normalize(texts, form="NFKC")
        texts = pc.utf8_lower(texts) if self._lowercase else texts
        texts = pc.replace_substring_regex(texts, pattern=r"([^\p{L}\p{M}\p{N}_\s])", replacement=r" \1 ")
        lists = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts))
        words = lists.flatten().dictionary_encode()
        indices = words.indices.to_numpy()
        spelled = words.dictionary.cast(pa.large_binary()).to_pylist()
        # CRC-32 and not `hash`, which differs between processes; each different word is hashed once.
        codes = np.fromiter(map(zlib.crc32, spelled), dtype=np.uint64, count=len(spelled))
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
