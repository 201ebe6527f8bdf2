"""Words and word n-grams as hashes: text without anything to train."""

from __future__ import annotations

import unicodedata
import zlib
from itertools import groupby

import numpy as np
import pyarrow as pa

from polytask.data.encoded import Ragged
from polytask.data.inputs.text_cells import WordLists
from polytask.data.inputs.tokenizer import WordTokenizer
from polytask.data.inputs.word_ngrams import WordNgrams

_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class HashedWords(WordTokenizer):
    """Hashed words and n-grams (Joulin et al., "Bag of Tricks for Efficient Text Classification", EACL 2017).

    Id 0 is padding, and a text without words is one padding id. Punctuation marks are words of their own, but in texts
    that are given in words.

    Args:
        buckets: How many values the hashes have: ids 1 to `buckets`.
        ngrams: The longest n-gram in words. A text's n-grams follow its words, the shorter ones first.
        words: Longer texts are cut after so many words.
        lowercase: Whether upper and lower case are one.
        affixes: Gives each word ids of its beginnings and its ends of 1 to so many characters and of its shape, beside
            its own.
    """

    padding = 0
    unknown = 0

    def __init__(self, buckets: int, ngrams: int, words: int, lowercase: bool, affixes: int = 0) -> None:
        # CRC-32 and not `hash`, which differs between processes.
        self._ngrams = WordNgrams(ngrams, words, lowercase, zlib.crc32)
        self._buckets = np.uint64(buckets)
        self._words, self._lowercase, self._affixes = words, lowercase, affixes
        self.vocabulary = buckets + 1
        self.length = self._ngrams.length
        self.parts = 2 + 2 * affixes if affixes else 1

    def encode(self, texts: pa.Array) -> Ragged:
        """See `Tokenizer.encode`."""
        hashes = self._ngrams.hashes(texts)
        return Ragged(self._ids(hashes.values), hashes.lengths)

    def encode_words(self, words: WordLists) -> Ragged:
        """See `WordTokenizer.encode_words`: each word is a token."""
        lengths = np.minimum(words.lengths, self._words)
        number = np.arange(len(words.words)) - np.repeat(np.cumsum(words.lengths) - words.lengths, words.lengths)
        coded = words.words.dictionary_encode()
        # Each different word is hashed once.
        pieces = [self._pieces(word) for word in coded.dictionary.to_pylist()]
        hashes = [[zlib.crc32(piece.encode("utf-8", "surrogatepass")) for piece in word] for word in pieces]
        ids = self._ids(np.array(hashes, dtype=np.uint64).reshape(-1, self.parts))
        values = np.concatenate([ids[coded.indices.to_numpy()], number[:, None].astype(np.int32)], axis=1)
        return Ragged(values[number < self._words], lengths)

    def _ids(self, hashes: np.ndarray) -> np.ndarray:
        # The high bits of a product are the well mixed ones.
        ids: np.ndarray = np.uint64(1) + ((hashes * _SPREAD) >> np.uint64(16)) % self._buckets
        return ids.astype(np.int32)

    def _pieces(self, word: str) -> list[str]:
        """What the ids of a word are hashes of; what is of another kind differs by what it starts with."""
        plain = unicodedata.normalize("NFKC", word)
        known = plain.lower() if self._lowercase else plain
        if not self._affixes:
            return [known]
        sizes = range(1, self._affixes + 1)
        starts, ends = [f"\0{known[:size]}" for size in sizes], [f"\1{known[-size:]}" for size in sizes]
        return [known, *starts, *ends, f"\2{word_shape(plain)}"]


def word_shape(word: str) -> str:
    """How a word is written: `X` for capitals, `x` for other letters, `d` for digits, in runs of at most two."""
    letters = ("X" if c.isupper() else "x" if c.isalpha() else "d" if c.isdigit() else c for c in word)
    return "".join(kind * min(2, len(list(run))) for kind, run in groupby(letters))
