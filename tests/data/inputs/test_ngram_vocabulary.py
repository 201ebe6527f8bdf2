import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.inputs.ngram_vocabulary import NgramVocabulary

WORDS = st.lists(st.lists(st.sampled_from("abcde"), max_size=7), min_size=1, max_size=8)


def _array(texts):
    return pa.array([" ".join(words) for words in texts], pa.large_string())


def _learned(texts, *, min_count=2, ngrams=3, words=50, part=100):
    parts = (_array(texts[start : start + part]) for start in range(0, len(texts), part))
    return NgramVocabulary.learn(parts, min_count, ngrams, words, lowercase=True)


def _rows(ragged):
    return [part.tolist() for part in np.split(ragged.values, np.cumsum(ragged.lengths)[:-1])]


def _ngrams(words, longest):
    return [tuple(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)]


@settings(max_examples=60, deadline=None)
@given(texts=WORDS, min_count=st.integers(1, 3), longest=st.integers(1, 3), part=st.integers(1, 8))
def test_it_holds_the_ngrams_of_enough_texts_and_leaves_out_the_others(texts, min_count, longest, part):
    found = _learned(texts, min_count=min_count, ngrams=longest, part=part)
    in_texts = [set(_ngrams(words, longest)) for words in texts]
    kept = {ngram for ngram in set().union(*in_texts) if sum(ngram in each for each in in_texts) >= min_count}
    assert found.vocabulary == len(kept) + 1
    ids = {}
    for words, row in zip(texts, _rows(found.encode(_array(texts))), strict=True):
        expected = [ngram for ngram in _ngrams(words, longest) if ngram in kept]
        assert len(row) == len(expected)
        for ngram, number in zip(expected, row, strict=True):
            assert ids.setdefault(ngram, number) == number
    assert sorted(ids.values()) == list(range(1, len(kept) + 1))


def test_an_ngram_that_a_text_repeats_counts_once():
    found = _learned([["a", "a", "a", "b"], ["b"]], ngrams=1)
    assert _rows(found.encode(_array([["a", "b", "c", "b"]]))) == [[1, 1]]


def test_a_vocabulary_does_not_depend_on_the_order_or_the_parts_of_the_texts():
    texts = [[chr(97 + (7 * i + j * j) % 26) for j in range(i % 9)] for i in range(60)]
    whole, parts = _learned(texts), _learned(texts[::-1], part=7)
    np.testing.assert_array_equal(whole.keys, parts.keys)


def test_what_was_never_seen_has_no_ids():
    found = _learned([["a", "b"], ["a", "b"]])
    assert _rows(found.encode(_array([["x"], [], ["b", "x", "a"]]))) == [
        [],
        [],
        _rows(found.encode(_array([["b"], ["a"]])))[0] + _rows(found.encode(_array([["a"]])))[0],
    ]
    assert found.encode(pa.array([], pa.large_string())).lengths.tolist() == []


def test_an_empty_vocabulary_leaves_nothing():
    found = _learned([["a"], ["b"]])
    assert found.vocabulary == 1
    assert found.encode(_array([["a", "b"], []])).lengths.tolist() == [0, 0]


def test_long_texts_are_cut_after_so_many_words():
    found = _learned([["a", "b", "c"], ["a", "b", "c"]], words=2)
    assert found.length == 3
    assert found.vocabulary == 1 + 3
    assert found.encode(_array([["a", "b", "c"]])).lengths.tolist() == [3]


def test_keys_are_the_same_in_every_process_and_release():
    found = _learned([["some", "words"], ["some", "words"]], ngrams=2)
    assert found.keys.tolist() == [69340570595827017, 13984830484404761918, 17438995210443857747]


@pytest.mark.parametrize("ngrams", [1, 2])
def test_no_two_ngrams_fall_on_one_id(ngrams):
    words = [f"word{i}" for i in range(3000)]
    found = _learned([words, words], ngrams=ngrams, words=3000)
    assert found.vocabulary == 1 + sum(3000 - extra for extra in range(ngrams))
