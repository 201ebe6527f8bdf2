import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.inputs import TextInput
from polytask.data.inputs.hashed_words import word_shape
from polytask.data.table import Table
from polytask.errors import UserError

SENTENCES = [["The", "walking", "cats", "unbelievably", "slept", "."], ["I", "saw", "AT&T", "in", "2024", "!"], ["Yes"]]


def fitted(cells, column="words", **parameters):
    columns = cells if isinstance(cells, dict) else {"words": cells}
    table = Table.from_arrow(pa.table(columns), source="texts.parquet")
    source = TextInput(column, **parameters)
    rows = np.arange(len(table))
    source.resolve(table, ())
    source.fit(table, rows, {})
    return source, table


def collated(source, table, rows=None):
    rows = np.arange(len(table)) if rows is None else np.array(rows)
    encoding = source.encode(table.take(rows, source.columns), rows, table)
    return source.collate(encoding.values, rows, None), encoding


def pretrained(tmp_path, pairs=True):
    """A tokenizer with special tokens around one text and between two, and `##` for what continues a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "walk", "##ing", "##ed", "sat"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if pairs:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)


def test_each_word_of_hashed_words_is_one_token():
    source, table = fitted(SENTENCES, words=True, tokenizer="words")
    batch, _ = collated(source, table)
    assert batch["ids"].shape == batch["words"].shape == (3, 6)
    assert batch["words"][0].tolist() == [0, 1, 2, 3, 4, 5]
    assert batch["words"][2].tolist() == [0, -1, -1, -1, -1, -1]
    assert batch["mask"].sum(dim=1).tolist() == [6, 6, 1]
    assert (source.shape.parts, source.shape.segments) == (1, 1)


def test_texts_are_split_at_white_space_like_lists_of_the_same_words():
    from_lists = collated(*fitted(SENTENCES, words=True, tokenizer="words"))[0]
    from_texts = collated(*fitted([" ".join(row) + "  " for row in SENTENCES], words=True, tokenizer="words"))[0]
    for name in from_lists:
        assert from_lists[name].equal(from_texts[name])


def test_affixes_make_words_alike_that_are_formed_alike():
    source, table = fitted([["walking", "Talking", "walks", "42"]], words=True, tokenizer="words", affixes=3)
    batch, _ = collated(source, table)
    assert batch["ids"].shape == (1, 4, source.shape.parts) == (1, 4, 8)
    # The word, beginnings of 1, 2 and 3 letters, ends of 1, 2 and 3 letters, the shape.
    walking, talking, walks, number = batch["ids"][0].tolist()

    def same(a, b):
        return [place for place in range(8) if a[place] == b[place]]

    assert same(walking, talking) == [4, 5, 6]
    assert same(walking, walks) == [1, 2, 3, 7]
    assert same(walking, number) == []
    assert len(set(walking)) == 8


@pytest.mark.parametrize(
    ("word", "shape"), [("Walking", "Xxx"), ("AT&T", "XX&X"), ("2024", "dd"), ("", ""), ("é!", "x!")]
)
def test_the_shape_of_words(word, shape):
    assert word_shape(word) == shape


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.text(max_size=6), max_size=6), min_size=1, max_size=4))
def test_parts_of_words_know_their_word(rows):
    source, table = fitted([["some", "words", "to", "learn", "from"], *rows], words=True, vocabulary=300, length=40)
    positions = np.arange(1, len(table))
    batch, _ = collated(source, table, positions)
    given_words, read = source.count_words(table.take(positions, source.columns), positions, table)
    assert given_words.tolist() == [len(row) for row in rows]
    for row, words in enumerate(batch["words"].tolist()):
        own = [word for word in words if word >= 0]
        assert own == sorted(own)
        assert max(own, default=-1) + 1 == read[row] <= len(rows[row])
        # Only words without a letter that the tokenizer keeps have no token; the length cuts off nothing here.
        assert all(
            word in own for word, letters in enumerate(rows[row]) if letters.strip().isascii() and letters.isalnum()
        )


def test_words_behind_the_length_are_not_read():
    source, table = fitted(SENTENCES, words=True, tokenizer="words", length=4)
    assert collated(source, table)[0]["words"].shape == (3, 4)
    given_words, read = source.count_words(table.take(None, source.columns), np.arange(3), table)
    assert (given_words.tolist(), read.tolist()) == ([6, 6, 1], [4, 4, 1])


def test_special_tokens_are_of_no_word(tmp_path):
    source, table = fitted([["the", "cat", "walking"]], words=True, tokenizer=pretrained(tmp_path), length=6)
    batch, _ = collated(source, table)
    assert batch["ids"].tolist() == [[2, 4, 5, 6, 7, 3]]
    assert batch["words"].tolist() == [[-1, 0, 1, 2, 2, -1]]


@pytest.mark.parametrize("tokenizer", ["words", "bpe"])
def test_a_text_without_words_is_one_token_of_no_word(tokenizer):
    source, table = fitted([["a", "b"], []], words=True, tokenizer=tokenizer, vocabulary=300)
    batch, encoding = collated(source, table)
    assert encoding.empty == 1
    assert batch["words"][1].tolist() == [-1] * batch["words"].shape[1]
    assert batch["mask"][1].sum() == 1


PAIRS = {"first": ["the cat sat", "the cat", "sat"], "second": ["cat", None, ""]}


def test_pairs_are_put_together_as_the_tokenizer_does(tmp_path):
    source, table = fitted(PAIRS, ["first", "second"], tokenizer=pretrained(tmp_path))
    batch, _ = collated(source, table)
    assert batch["ids"].tolist() == [[2, 4, 5, 9, 3, 5, 3], [2, 4, 5, 3, 0, 0, 0], [2, 9, 3, 0, 0, 0, 0]]
    assert batch["segments"].tolist() == [[0, 0, 0, 0, 0, 1, 1], [0] * 7, [0] * 7]
    assert source.shape.segments == 2


@pytest.mark.parametrize(
    "parameters", [{"tokenizer": "words"}, {"vocabulary": 300}, {"tokenizer": "words", "ngrams": 2}]
)
def test_pairs_of_own_tokenizers_are_the_tokens_of_both(parameters):
    source, table = fitted(PAIRS, ["first", "second"], **parameters)
    batch, _ = collated(source, table)
    alone = {}
    for column, cells in PAIRS.items():
        single = {column: [text or "" for text in cells]}
        other, texts = fitted(single, column, **parameters)
        other._fitted = source._fitted
        alone[column] = collated(other, texts)[0]
    for row in range(3):
        ids = [alone[column]["ids"][row][alone[column]["mask"][row]].tolist() for column in PAIRS]
        ids[1] = ids[1] if PAIRS["second"][row] else []
        assert batch["ids"][row][batch["mask"][row]].tolist() == ids[0] + ids[1]
        assert batch["segments"][row][batch["mask"][row]].tolist() == [0] * len(ids[0]) + [1] * len(ids[1])


@settings(max_examples=40, deadline=None)
@given(first=st.integers(1, 12), second=st.integers(0, 12), length=st.integers(2, 12))
def test_of_a_pair_that_is_too_long_the_longer_text_is_cut(first, second, length):
    cells = {"a": [" ".join("x" * first)], "b": [" ".join("y" * second)]}
    source, table = fitted(cells, ["a", "b"], tokenizer="words", length=length)
    segments = collated(source, table)[0]["segments"][0].tolist()
    kept = (segments.count(0), segments.count(1))
    whole = (min(first, length), min(second, length))
    assert sum(kept) == min(length, sum(whole))
    # None is shorter than half of the room unless it is whole.
    assert all(own == full or own >= length // 2 for own, full in zip(kept, whole, strict=True))


def test_what_was_learned_travels_as_json(tmp_path):
    for cells, column, parameters in (
        (SENTENCES, "words", {"words": True, "tokenizer": "words", "affixes": 2}),
        (SENTENCES, "words", {"words": True, "vocabulary": 300}),
        (PAIRS, ["first", "second"], {"tokenizer": pretrained(tmp_path)}),
    ):
        source, table = fitted(cells, column, **parameters)
        restored = TextInput(column, **parameters)
        restored.load_state_dict(json.loads(json.dumps(source.state_dict())))
        assert restored.shape == source.shape
        before, after = collated(source, table)[0], collated(restored, table)[0]
        assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize(
    ("column", "parameters", "message"),
    [
        (["a", "b", "c"], {}, "reads one column, or two"),
        (["a", "a"], {}, "two different ones"),
        (["a", "b"], {"words": True}, "neither read word by word"),
        (["a", "b"], {"tokenizer": "words", "weights": ["idf"]}, "nor weighted"),
        ("a", {"words": True, "tokenizer": "words", "ngrams": 2}, "With words: true"),
        ("a", {"words": True, "tokenizer": "words", "min_count": 2}, "With words: true"),
        ("a", {"words": True, "affixes": 2}, "affixes is 2"),
        ("a", {"tokenizer": "words", "affixes": 2}, "affixes is 2"),
        ("a", {"words": True, "tokenizer": "words", "affixes": -1}, "affixes is -1"),
    ],
)
def test_what_does_not_go_together_is_refused(column, parameters, message):
    with pytest.raises(UserError, match=message):
        TextInput(column, **parameters)


def test_lists_of_words_need_words():
    with pytest.raises(UserError, match="holds list<.*words: true"):
        fitted(SENTENCES, vocabulary=300)


def test_an_empty_first_text_is_an_error():
    source, _ = fitted(PAIRS, ["first", "second"], tokenizer="words")
    broken = Table.from_arrow(pa.table({"first": ["a", None], "second": ["b", "c"]}), source="new.parquet")
    with pytest.raises(UserError, match="new.parquet, row 2: 'first' is empty"):
        collated(source, broken)
