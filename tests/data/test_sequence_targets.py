import json
import logging

import numpy as np
import pyarrow as pa
import pytest

from polytask.data.inputs import TextInput
from polytask.data.preparation import Preparation
from polytask.data.table import Table
from polytask.data.targets import make_target, target_from_state
from polytask.errors import UserError
from polytask.labels import TargetSpec
from polytask.sequences import BLANK

WORDS = [["The", "cat", "sat"], ["Dogs", "bark"], ["Yes"], ["A", "b"]]
TAGS = [["DET", "NOUN", "VERB"], ["NOUN", None], None, [None, None]]


def table_of(**columns):
    return Table.from_arrow(pa.table(columns), source="t.parquet")


def tags_spec(**more):
    return TargetSpec("tags", ("pos",), **more)


def labels(target, table, rows=None):
    rows = np.arange(len(table)) if rows is None else np.array(rows)
    values = target.read(table.take(rows, target.columns), rows, table)
    return *target.labels(values, None), values


def fitted(spec, table, rows=None):
    target = make_target("pos", spec)
    target.fit(table, np.arange(len(table)) if rows is None else np.array(rows))
    return target


@pytest.mark.parametrize("cells", [TAGS, ["DET NOUN  VERB", "NOUN", None, ""]])
def test_tags_are_lists_or_text(cells):
    target = fitted(tags_spec(), table_of(pos=cells))
    assert target.summary.classes == ("DET", "NOUN", "VERB")
    assert target.summary.counts == (1, 2, 1)
    assert target.summary.longest == 3
    found, mask, values = labels(target, table_of(pos=cells))
    assert found.values[0].tolist() == [0, 1, 2]
    assert found.values[1].tolist() == [1, BLANK, BLANK]
    assert (found.values[2:] == BLANK).all()
    assert mask.tolist() == target.known(values).tolist() == [True, True, False, False]
    assert str(target.summary.labelled) in "34"


def test_batches_have_the_tags_of_their_words():
    table = table_of(text=WORDS, pos=TAGS, genre=["a", "b", "a", "b"])
    inputs = {"text": TextInput("text", words=True, tokenizer="words")}
    specs = {"pos": tags_spec(), "genre": TargetSpec("category", ("genre",))}
    prepared = Preparation.fit(table, np.arange(4), inputs, specs)
    for each in (prepared, restored(prepared)):
        (batch,) = each.loader(table, batch_size=4)
        assert batch.targets["pos"].values.shape == (4, 3)
        assert batch.labelled["pos"].tolist() == [0, 1]
        assert batch.inputs["text"]["words"].shape == (4, 3)
        streamed = each.loader(table, batch_size=4, cache_bytes=0)
        assert next(iter(streamed)).targets["pos"].values.equal(batch.targets["pos"].values)


def restored(prepared):
    fresh = {"text": TextInput("text", words=True, tokenizer="words")}
    return Preparation.from_state(json.loads(json.dumps(prepared.state_dict())), fresh)


def followed(table, spec=None, **parameters):
    inputs = {"text": TextInput("text", words=True, tokenizer="words", **parameters)}
    return Preparation.fit(table, np.arange(len(table)), inputs, {"pos": spec or tags_spec()})


def test_labels_of_words_that_are_cut_off_are_left_out_and_said_once(caplog):
    table = table_of(text=WORDS, pos=TAGS)
    prepared = followed(table, length=2)
    with caplog.at_level(logging.WARNING, logger="polytask"):
        for _ in range(2):
            (batch,) = prepared.loader(table, batch_size=4)
    assert batch.targets["pos"].values.tolist() == [[0, 1], [1, BLANK], [BLANK, BLANK], [BLANK, BLANK]]
    assert batch.targets["pos"].lengths[0] == 2
    cut = [record.getMessage() for record in caplog.records if "cuts off" in record.getMessage()]
    assert cut == [
        "Task 'pos': 1 of the 5 tags read so far belong to words behind the input's length, which it cuts off: they "
        "are left out."
    ]


def test_another_number_of_tags_than_words_is_an_error_with_the_row():
    table = table_of(text=WORDS, pos=[TAGS[0], ["NOUN", "VERB", "ADV"], None, None])
    with pytest.raises(UserError, match="t.parquet, row 2: 'pos' .task 'pos'. has 3 tags, but 'text' has 2 words"):
        list(followed(table).loader(table, batch_size=4))


def test_a_new_tag_is_an_error_or_an_extra_class():
    table, new = table_of(pos=TAGS), table_of(pos=[["NOUN", "NUON"]])
    with pytest.raises(UserError, match=r"row 1: the class 'NUON' of 'pos'.*Did you mean 'NOUN'"):
        labels(fitted(tags_spec(), table), new)
    assert labels(fitted(tags_spec(unseen="unknown"), table), new)[0].values.tolist() == [[1, 3]]


def test_the_input_with_the_words_has_to_be_known():
    table = table_of(text=WORDS, pos=TAGS)
    plain = {"text": TextInput("text", words=True, tokenizer="words")}
    with pytest.raises(UserError, match="of the input 'txt', which is no text read word by word.*Did you mean 'text'"):
        Preparation.fit(table, np.arange(4), plain, {"pos": tags_spec(words="txt")})
    several = {name: TextInput("text", words=True, tokenizer="words") for name in ("one", "two")}
    with pytest.raises(UserError, match="several inputs have words: 'one', 'two'|several inputs have words"):
        Preparation.fit(table, np.arange(4), several, {"pos": tags_spec()})
    texts = table_of(text=["a b", "c", "d", "e f"], pos=[["x", "y"], ["x"], ["x"], None])
    with pytest.raises(UserError, match="no text input is read word by word. Set words: true"):
        Preparation.fit(texts, np.arange(4), {"text": TextInput("text", tokenizer="words")}, {"pos": tags_spec()})


@pytest.mark.parametrize(
    ("cells", "message"),
    [([["a"], ["a"]], "only one class, 'a'"), ([None, None], "nothing to learn from"), ([1, 2], "holds int64")],
)
def test_tags_that_cannot_be_learned(cells, message):
    column = pa.array(cells, pa.list_(pa.string())) if cells[0] is None else pa.array(cells)
    with pytest.raises(UserError, match=message):
        fitted(tags_spec(), table_of(pos=column))


def text_spec(**more):
    return TargetSpec("text", ("pos",), **more)


TEXTS = [" ab  a", "", None, "b"]


def test_texts_are_spelled_letter_by_letter():
    target = fitted(text_spec(), table_of(pos=TEXTS))
    assert target.summary.classes == (" ", "a", "b")
    assert target.summary.counts == (1, 2, 2)
    assert (target.summary.labelled, target.summary.longest) == (3, 4)
    found, mask, values = labels(target, table_of(pos=TEXTS))
    assert found.values[0].tolist() == [1, 2, 0, 1]
    assert found.lengths.tolist() == [4, 0, 0, 1]
    assert mask.tolist() == target.known(values).tolist() == [True, True, False, True]
    assert "a: 40 %" in described(target, values)


def described(target, values):
    tally = target.tally()
    tally.add(values)
    return str(tally)


def test_texts_are_spelled_word_by_word():
    target = fitted(text_spec(unit="words"), table_of(pos=["two one", None, "one"]))
    assert target.summary.classes == ("one", "two")
    found, mask, _ = labels(target, table_of(pos=["two one", None, "one"]))
    assert (found.values[0].tolist(), found.lengths.tolist()) == ([1, 0], [2, 0, 1])
    assert mask.tolist() == [True, False, True]


def test_numbers_are_texts_too():
    assert fitted(text_spec(), table_of(pos=[12, 21])).summary.classes == ("1", "2")


def test_a_new_letter_is_an_error_or_an_extra_symbol():
    table, new = table_of(pos=TEXTS), table_of(pos=["abc"])
    with pytest.raises(UserError, match="row 1: the class 'c' of 'pos'"):
        labels(fitted(text_spec(), table), new)
    assert labels(fitted(text_spec(unseen="unknown"), table), new)[0].values.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("spec", [tags_spec(), text_spec(), text_spec(unit="words", unseen="unknown")])
def test_what_was_learned_travels_as_json(spec):
    table = table_of(pos=["a b", "b"])
    target = fitted(spec, table)
    again = target_from_state("pos", json.loads(json.dumps(target.state_dict())))
    assert again.spec == target.spec
    assert labels(again, table)[0].values.equal(labels(target, table)[0].values)


def test_lists_are_no_texts():
    with pytest.raises(UserError, match="holds list<.*not text"):
        fitted(text_spec(), table_of(pos=[["a"]]))
