import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.inputs.hashed_words import HashedWords


def _encode(texts, **changes):
    parameters = {"buckets": 1000, "ngrams": 1, "words": 50, "lowercase": True} | changes
    ragged = HashedWords(**parameters).encode(pa.array(texts, pa.large_string()))
    return [part.tolist() for part in np.split(ragged.values, np.cumsum(ragged.lengths)[:-1])]


def test_a_word_has_one_id_wherever_it_stands():
    (first, second) = _encode(["good film , really good", "A GOOD film!"])
    assert first[0] == first[4] == second[1]
    assert first[1] == second[2]
    assert len(first) == 5
    assert len(second) == 4


def test_case_counts_when_asked_to():
    lower, upper = _encode(["good", "GOOD"], lowercase=False)
    assert lower != upper


def test_punctuation_is_apart_from_words_in_every_script():
    assert _encode(["naïve, 日本。"]) == _encode(["naïve , 日本 。"])
    assert len(_encode(["naïve, 日本。"])[0]) == 4


def test_texts_without_words_have_no_ids():
    assert _encode(["", "  \t\n", "x"])[:2] == [[], []]
    assert HashedWords(10, 2, 5, True).encode(pa.array([], pa.large_string())).lengths.tolist() == []


@settings(max_examples=40)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.integers(1, 4))
def test_ids_do_not_depend_on_the_other_texts_and_stay_in_range(texts, ngrams):
    together = _encode(texts, ngrams=ngrams, buckets=97)
    assert together == [_encode([text], ngrams=ngrams, buckets=97)[0] for text in texts]
    assert all(1 <= token <= 97 for row in together for token in row)


def test_ngrams_follow_the_words_and_depend_on_their_order():
    forward, backward = _encode(["a b c", "c b a"], ngrams=3, buckets=10**6)
    assert forward[:3] == backward[:3][::-1]
    assert len(forward) == len(backward) == 3 + 2 + 1
    assert not set(forward[3:]) & set(backward[3:])


def test_the_same_bigram_has_the_same_id_in_every_text():
    first, second = _encode(["very good film", "a very good book"], ngrams=2, buckets=10**6)
    assert first[3] == second[5]


def test_long_texts_are_cut_after_so_many_words():
    tokenizer = HashedWords(1000, 2, 4, True)
    ragged = tokenizer.encode(pa.array(["a b c d e f", "a"], pa.large_string()))
    assert ragged.lengths.tolist() == [4 + 3, 1]
    assert tokenizer.length == 7
    assert tokenizer.vocabulary == 1001


def test_ids_are_the_same_in_every_process_and_release():
    assert _encode(["some words here"], ngrams=2) == [[802, 160, 112, 946, 375]]


def test_words_spread_evenly_over_the_ids():
    ids = np.concatenate(_encode([" ".join(f"word{i}" for i in range(20_000))], buckets=100, words=20_000))
    counts = np.bincount(ids, minlength=101)[1:]
    assert abs(counts - 200).max() < 6 * 200**0.5
