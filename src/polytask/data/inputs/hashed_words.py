"""Words and word n-grams as hashes: text without anything to train."""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa

from polytask.data.inputs.encoded import Ragged
from polytask.data.inputs.tokenizer import Tokenizer
from polytask.data.inputs.word_ngrams import WordNgrams

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
        # CRC-32 and not `hash`, which differs between processes.
        self._ngrams = WordNgrams(ngrams, words, lowercase, zlib.crc32)
        self._buckets = np.uint64(buckets)
        self.vocabulary = buckets + 1
        self.length = self._ngrams.length

    def encode(self, texts: pa.Array) -> Ragged:
        """See `Tokenizer.encode`."""
        hashes = self._ngrams.hashes(texts)
        # The high bits of a product are the well mixed ones.
        ids = np.uint64(1) + ((hashes.values * _SPREAD) >> np.uint64(16)) % self._buckets
        return Ragged(ids.astype(np.int32), hashes.lengths)
