import json
import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.inputs import TextInput
from polytask.data.table import Table
from polytask.data.targets import make_target
from polytask.errors import UserError
from polytask.labels import TargetSpec
from polytask.shapes import TextShape

REVIEWS = [
    "A wonderful film, wonderful from beginning to end.",
    "Dull. Very dull film.",
    "I have seen better films!",
    "The beginning was wonderful; the end was not.",
]
TOKENIZERS = ["bpe", "words"]


def _table(texts, column="review", **others):
    return Table.from_arrow(pa.table({column: pa.array(texts, pa.string()), **others}), source="reviews.csv")


def _fitted(texts=REVIEWS, *, targets=None, **parameters):
    """An input fitted on texts, and on each task's labels (None: no label)."""
    source = TextInput("review", **parameters)
    table = _table(texts, **(targets or {}))
    rows = np.arange(len(table))
    readers = {task: make_target(task, TargetSpec("category", (task,))) for task in targets or {}}
    for reader in readers.values():
        reader.fit(table, rows)
    source.resolve(table, ())
    source.fit(table, rows, readers)
    return source


def _batch(source, texts):
    table = _table(texts)
    rows = np.arange(len(table))
    return source.collate(source.encode(table.take(rows), rows, table).values, rows, None)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_batch_has_ids_padded_to_its_longest_text(tokenizer):
    source = _fitted(tokenizer=tokenizer)
    batch = _batch(source, REVIEWS)
    ids, mask = batch["ids"], batch["mask"]
    assert ids.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert ids.shape == mask.shape
    assert mask.any(dim=0).all()
    assert (ids[~mask] == source.shape.padding).all()
    assert (ids < source.shape.vocabulary).all()
    assert _batch(source, REVIEWS[1:2])["ids"].shape[1] < ids.shape[1]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_long_texts_are_cut(tokenizer):
    source = _fitted(tokenizer=tokenizer, length=3)
    assert _batch(source, REVIEWS)["ids"].shape == (4, 3)
    assert source.shape.length == 3


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_state_that_went_through_json_encodes_the_same(tokenizer):
    source = _fitted(tokenizer=tokenizer, length=20)
    restored = TextInput("review", tokenizer=tokenizer, length=20)
    restored.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert restored.shape == source.shape
    assert restored.columns == ("review",)
    texts = [*REVIEWS, "unheard-of words: 日本 😀"]
    assert torch.equal(_batch(restored, texts)["ids"], _batch(source, texts)["ids"])


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_text_without_tokens_is_one_token_and_counted(tokenizer):
    source = _fitted(tokenizer=tokenizer)
    table = _table(["", "fine", "  \n"])
    rows = np.arange(3)
    encoding = source.encode(table.take(rows), rows, table)
    batch = source.collate(encoding.values, rows, None)
    assert encoding.empty == 2
    assert batch["mask"].sum(dim=1).tolist()[::2] == [1, 1]
    assert batch["ids"][0, 0] == batch["ids"][2, 0] == (1 if tokenizer == "bpe" else 0)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_missing_text_is_an_error_that_names_the_row(tokenizer):
    with pytest.raises(UserError, match=r"reviews.csv, row 3: 'review' is empty, .* Fill the cell, or remove the row"):
        _batch(_fitted(tokenizer=tokenizer), ["a", "b", None, None])


def test_training_on_a_missing_text_is_an_error_that_names_the_row():
    with pytest.raises(UserError, match=r"row 5: 'review' is empty"):
        _fitted([*REVIEWS, None])


def test_bpe_learns_from_the_training_rows_alone():
    table = _table(["aaaa bbbb"] * 3 + ["zzzz yyyy"] * 3)
    source = TextInput("review", vocabulary=300)
    source.resolve(table, ())
    source.fit(table, np.array([0, 1, 2]), {})
    merged = set(json.loads(source.state_dict()["tokenizer"])["model"]["vocab"])
    assert "Ġaaaa" in merged
    assert not any("zz" in token or "yy" in token for token in merged)


def test_bpe_is_the_same_each_time():
    assert _fitted().state_dict() == _fitted().state_dict()


@pytest.mark.parametrize("lowercase", [True, False])
def test_case_counts_when_asked_to(lowercase):
    ids = _batch(_fitted(lowercase=lowercase), ["Dull film", "dull film"])["ids"]
    assert torch.equal(ids[0], ids[1]) is lowercase


@pytest.fixture(scope="module")
def sensitive():
    return _fitted(lowercase=False)


@settings(max_examples=25, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=20))
def test_bpe_knows_every_character(sensitive, text):
    assert _batch(sensitive, [text])["ids"].min() > 1


def test_ngrams_of_words_make_texts_longer():
    source = _fitted(tokenizer="words", ngrams=2, length=4, buckets=50)
    assert source.shape == TextShape(vocabulary=51, length=7, padding=0)
    assert _batch(source, ["one two three four five"])["ids"].shape == (1, 7)


LEARNED = {"tokenizer": "words", "ngrams": 2, "min_count": 2}
TONES = {"tone": ["up", "down", None, "up"], "mood": ["a", "b", "c", "a"]}


def test_a_learned_vocabulary_holds_what_training_texts_have_in_common():
    source = _fitted(["a b c", "b c d", "c d e d"], **LEARNED, length=20)
    assert source.shape == TextShape(vocabulary=1 + len(["b", "c", "d", "b c", "c d"]), length=39, padding=0)
    ids, mask = (_batch(source, ["e a b c a", "d c b"])[name] for name in ("ids", "mask"))
    assert mask.sum(dim=1).tolist() == [len(["b", "c", "b c"]), 3]
    assert ids[0, :2].tolist() == ids[1, :3].flip(0)[:2].tolist()


def test_a_vocabulary_is_learned_from_the_training_rows_alone():
    table = _table(["a b", "a b", "c d", "c d"])
    source = TextInput("review", **LEARNED)
    source.resolve(table, ())
    source.fit(table, np.array([0, 1]), {})
    assert source.shape.vocabulary == 1 + 3
    assert _batch(source, ["c d"])["ids"].tolist() == [[0]]


def test_a_vocabulary_learned_in_parts_is_the_same(monkeypatch):
    whole = _fitted(**LEARNED).state_dict()
    monkeypatch.setattr("polytask.data.inputs.text._LEARNING_BYTES", 1)
    assert _fitted(**LEARNED).state_dict() == whole


def test_texts_without_a_word_in_common_are_refused():
    with pytest.raises(
        UserError, match=r"reviews.csv: no word occurs in 2 of the 2 training texts .* a smaller min_co"
    ):
        _fitted(["a", "b"], **LEARNED)


@pytest.mark.parametrize("parameters", [LEARNED, {"tokenizer": "words", "buckets": 50}, {"vocabulary": 300}])
def test_weighted_tokens_are_each_once_and_of_length_one(parameters):
    source = _fitted(targets=TONES, weights=["idf", "log_ratio"], **parameters)
    batch = _batch(source, [*REVIEWS, "a film, a film, a film", ""])
    ids, mask, weights = batch["ids"], batch["mask"], batch["weights"]
    assert weights.dtype == torch.float32
    assert weights.shape == (*ids.shape, 2)
    assert source.shape.weightings == 2
    assert (weights[~mask] == 0).all()
    assert all(len(set(row[real].tolist())) == int(real.sum()) for row, real in zip(ids, mask, strict=True))
    lengths = weights.norm(dim=1)
    torch.testing.assert_close(lengths, (lengths > 0).float())
    assert (lengths[[0, 1, 3, 4]] > 0).all()
    assert (lengths[5] == 0).all()


def test_a_weight_says_how_rare_a_word_is_and_how_much_it_tells():
    texts = ["good a x", "bad a y", "good a y", "bad a x"]
    source = _fitted(texts, targets={"tone": ["up", "down", "up", "down"]}, tokenizer="words", min_count=1,
                     weights=["log_ratio", "idf"])  # fmt: skip
    ids = {word: int(_batch(source, [word])["ids"][0, 0]) for word in ("good", "a", "x")}
    batch = _batch(source, ["good a x"])
    ratio, idf = (dict(zip(batch["ids"][0].tolist(), batch["weights"][0, :, m].tolist(), strict=True)) for m in (0, 1))
    assert ratio[ids["good"]] > 0.99
    assert ratio[ids["a"]] == pytest.approx(ratio[ids["x"]]) == pytest.approx(0, abs=1e-6)
    assert idf[ids["a"]] == 0
    assert idf[ids["good"]] == pytest.approx(idf[ids["x"]]) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("parameters", [LEARNED, {"tokenizer": "words", "buckets": 50}])
def test_weights_survive_a_state_that_went_through_json(parameters):
    parameters = {**parameters, "weights": ["log_ratio", "idf"]}
    source = _fitted(targets=TONES, **parameters)
    restored = TextInput("review", **parameters)
    restored.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert restored.shape == source.shape
    mine, theirs = _batch(restored, REVIEWS), _batch(source, REVIEWS)
    assert all(torch.equal(mine[name], theirs[name]) for name in ("ids", "mask", "weights"))


def test_kept_rows_hold_ids_alone():
    source = _fitted(targets=TONES, weights=["idf", "log_ratio"], **LEARNED)
    table = _table(REVIEWS)
    values = source.encode(table.take(None), np.arange(4), table).values
    assert values.values.dtype == np.int32
    assert values.nbytes == 4 * len(values.values) + 16 * 4


def test_log_ratio_needs_a_classification_task():
    with pytest.raises(UserError, match=r"'review' has the weights log_ratio, .* there is no such task. .* \[idf\]"):
        _fitted(weights=["log_ratio"], **LEARNED)
    assert _fitted(weights=["idf"], **LEARNED).shape.weightings == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"vocabulary": 100}, "vocabulary is 100, .* at least 258"),
        ({"length": 0}, "length is 0, but must be at least 1"),
        ({"tokenizer": "words", "ngrams": 0}, "ngrams is 0"),
        ({"tokenizer": "words", "buckets": 0}, "buckets is 0"),
        ({"ngrams": 2}, "ngrams is 2, but only the tokenizer 'words'"),
        ({"tokenizer": "words", "min_count": 0}, "min_count is 0, but must be at least 1"),
        ({"min_count": 2}, "min_count is 2, but only the tokenizer 'words' .* 'bpe'. Leave it out, or set tokenizer"),
        ({"weights": ["idf", "idx"]}, "weights names 'idx', which is none. Did you mean 'idf'.*Allowed: 'idf', 'log_"),
        ({"weights": ["idf", "idf"]}, "weights names one twice: 'idf', 'idf'"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        TextInput("review", **parameters)


def test_a_column_of_lists_is_no_text():
    table = Table.from_arrow(pa.table({"review": [["a"], ["b"]]}), source="reviews.parquet")
    source = TextInput("review", tokenizer="words")
    source.fit(table, np.arange(2), {})
    with pytest.raises(UserError, match=r"reviews.parquet: the column 'review' holds list<.*>, not text"):
        source.encode(table.take(None), np.arange(2), table)


def test_numbers_are_read_as_text():
    source = _fitted(tokenizer="words")
    table = Table.from_arrow(pa.table({"review": [12, 12, 13]}))
    ids = source.collate(source.encode(table.take(None), np.arange(3), table).values, np.arange(3), None)["ids"]
    assert ids[0] == ids[1] != ids[2]


def test_an_absent_column_is_refused_with_a_suggestion():
    with pytest.raises(UserError, match=r"reviews.csv has no column 'reviews'. Did you mean 'review'?"):
        TextInput("reviews").resolve(_table(REVIEWS), ())


def test_a_target_cannot_be_an_input():
    with pytest.raises(UserError, match=r"the column 'review' is read by an input but also is a target"):
        TextInput("review").resolve(_table(REVIEWS), {"review"})


def test_what_is_not_fitted_has_no_shape():
    with pytest.raises(RuntimeError, match=r"not fitted"):
        _ = TextInput("review").shape


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("pretrained")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=6)
    tokenizer.save_pretrained(folder / "saved")
    return folder / "saved"


class TestPretrained:
    def test_a_folder_gives_the_tokens_of_its_model(self, folder):
        source = _fitted(tokenizer=str(folder), length=6)
        batch = _batch(source, ["A good film", "films", "unheard"])
        assert batch["ids"].tolist() == [[2, 5, 6, 7, 3], [2, 7, 8, 3, 0], [2, 1, 3, 0, 0]]
        assert batch["mask"].sum(dim=1).tolist() == [5, 4, 3]
        assert source.shape == TextShape(vocabulary=9, length=6, padding=0)

    def test_the_state_needs_neither_the_folder_nor_the_library_it_came_from(self, folder):
        source = _fitted(tokenizer=str(folder), length=5)
        restored = TextInput("review", tokenizer="/no/longer/there", length=5)
        restored.load_state_dict(json.loads(json.dumps(source.state_dict())))
        assert torch.equal(_batch(restored, ["a good good films"])["ids"], _batch(source, ["a good good films"])["ids"])
        assert _batch(restored, ["a good good films"])["ids"].shape == (1, 5)

    def test_the_length_is_at_most_that_of_the_model(self, folder, caplog):
        with caplog.at_level(logging.WARNING, "polytask"):
            assert _fitted(tokenizer=str(folder), length=300).shape.length == 6
        assert "at most 6 tokens; length is reduced from 300" in caplog.text

    def test_a_tokenizer_file_alone_will_do(self, folder):
        source = _fitted(tokenizer=str(folder / "tokenizer.json"))
        assert source.shape == TextShape(vocabulary=9, length=256, padding=0)
        assert _batch(source, ["a film"])["ids"].tolist() == [[2, 5, 7, 3]]

    def test_a_tokenizer_without_padding_is_refused(self, folder, tmp_path):
        content = json.loads((folder / "tokenizer.json").read_text())
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[PAD]"]
        vocabulary = content["model"]["vocab"]
        vocabulary["[none]"] = vocabulary.pop("[PAD]")
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"no padding token"):
            _fitted(tokenizer=str(path))

    def test_what_is_no_tokenizer_is_refused(self, tmp_path):
        path = tmp_path / "tokenizer.json"
        path.write_text("{}")
        with pytest.raises(UserError, match=r"not a tokenizer of the library"):
            _fitted(tokenizer=str(path))

    def test_an_unknown_name_is_refused(self):
        with pytest.raises(UserError, match=r"There is no tokenizer 'bep': it is neither 'bpe', 'words'"):
            _fitted(tokenizer="bep")
