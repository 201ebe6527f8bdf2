"""Words and word n-grams that the training part has often enough, each with an id of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from polytask.data.encoded import Ragged
from polytask.data.inputs.tokenizer import Tokenizer
from polytask.data.inputs.word_ngrams import WordNgrams


class NgramVocabulary(Tokenizer):
    """A learned vocabulary of words and n-grams; all others are left out of a text.

    Unlike hashing into buckets, no two n-grams have one id, and rare ones take no part: what occurs in a single
    training text can only be memorised. The vocabulary holds 64-bit hashes instead of the n-grams themselves: of a
    million n-grams, two are alike with a probability of 3e-8.

    Id 0 is padding, and a text without any n-gram that is known is one padding id.

    Args:
        keys: uint64, in ascending order: the hashes of ids 1, 2...
        ngrams: The longest n-gram in words. A text's n-grams follow its words, the shorter ones first.
        words: Longer texts are cut after so many words.
        lowercase: Whether upper and lower case are one.
    """

    padding = 0
    unknown = 0

    def __init__(self, keys: np.ndarray, ngrams: int, words: int, lowercase: bool) -> None:
        self.keys = keys
        self._ngrams = _ngrams(ngrams, words, lowercase)
        self.vocabulary = len(keys) + 1
        self.length = self._ngrams.length

    @classmethod
    def learn(
        cls, texts: Iterable[pa.Array], min_count: int, ngrams: int, words: int, lowercase: bool
    ) -> NgramVocabulary:
        """The vocabulary of some texts.

        Args:
            texts: Large strings, in parts. Memory holds every different n-gram once, and one part's n-grams.
            min_count: The smallest number of texts that an n-gram occurs in.
            ngrams: See the class.
            words: See the class.
            lowercase: See the class.
        """
        splitter = _ngrams(ngrams, words, lowercase)
        known, waiting = _Counts.none(), _Counts.none()
        for part in texts:
            waiting = waiting.plus(_Counts.of(splitter.hashes(part)))
            # Merging costs as much as all that is known: not for each part.
            if len(waiting.keys) > len(known.keys) / 4:
                known, waiting = known.plus(waiting), _Counts.none()
        known = known.plus(waiting)
        return cls(known.keys[known.texts >= min_count], ngrams, words, lowercase)

    def encode(self, texts: pa.Array) -> Ragged:
        """See `Tokenizer.encode`."""
        hashes = self._ngrams.hashes(texts)
        if not len(self.keys):
            return Ragged(np.empty(0, dtype=np.int32), np.zeros_like(hashes.lengths))
        places = np.searchsorted(self.keys, hashes.values)
        places[places == len(self.keys)] = 0
        known = self.keys[places] == hashes.values
        rows = np.repeat(np.arange(len(hashes)), hashes.lengths)[known]
        return Ragged((places[known] + 1).astype(np.int32), np.bincount(rows, minlength=len(hashes)))


class _Counts:
    """In how many texts each n-gram occurs.

    Args:
        keys: uint64, ascending: hashes.
        texts: int64: numbers of texts.
    """

    def __init__(self, keys: np.ndarray, texts: np.ndarray) -> None:
        self.keys = keys
        self.texts = texts

    @classmethod
    def none(cls) -> _Counts:
        return cls(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))

    @classmethod
    def of(cls, hashes: Ragged) -> _Counts:
        rows = np.repeat(np.arange(len(hashes)), hashes.lengths)
        # The order is stable, so that rows ascend within equal hashes, and each row's first occurrence can be seen.
        order = np.argsort(hashes.values, kind="stable")
        values, rows = hashes.values[order], rows[order]
        first = np.ones(len(values), dtype=bool)
        first[1:] = (values[1:] != values[:-1]) | (rows[1:] != rows[:-1])
        return cls._summed(values[first], np.ones(int(first.sum()), dtype=np.int64))

    def plus(self, other: _Counts) -> _Counts:
        keys = np.concatenate([self.keys, other.keys])
        order = np.argsort(keys, kind="stable")
        return self._summed(keys[order], np.concatenate([self.texts, other.texts])[order])

    @classmethod
    def _summed(cls, keys: np.ndarray, texts: np.ndarray) -> _Counts:
        """Of ascending keys, each once, with the sum of its numbers."""
        if not len(keys):
            return cls(keys, texts)
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        return cls(keys[starts], np.add.reduceat(texts, starts))


def _ngrams(ngrams: int, words: int, lowercase: bool) -> WordNgrams:
    return WordNgrams(ngrams, words, lowercase, _hash)


def _hash(word: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")
