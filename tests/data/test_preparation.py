import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch

from polytask.components import Family
from polytask.data import inputs
from polytask.data.inputs import ImageInput, TabularInput, TextInput
from polytask.data.preparation import Preparation
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec
from polytask.shapes import TabularShape, TextShape


def _table(source="films.csv", **columns):
    return Table.from_arrow(pa.table(columns), source=source)


@pytest.fixture
def table():
    return _table(
        review=["a good film", "a bad film", "quite good", "no"],
        length=[90.0, 120.0, None, 100.0],
        country=["fr", "de", "fr", None],
        studio=["x", "y", "x", "y"],
        tone=["up", "down", "up", None],
        stars=[4.0, 1.0, 3.0, None],
    )


TARGETS = {"tone": TargetSpec("category", ("tone",)), "stars": TargetSpec("numbers", ("stars",))}


def test_a_star_reads_what_no_one_else_does(table):
    given = {"text": TextInput("review", tokenizer="words", buckets=9), "row": TabularInput()}
    prepared = Preparation.fit(table, np.arange(4), given, TARGETS, reserved=["studio"])
    assert given["row"].columns == ("length", "country")
    assert prepared.shapes == {"text": TextShape(10, 256, 0), "row": TabularShape(2, (4,))}
    assert prepared.summaries["tone"].classes == ("down", "up")
    assert prepared.summaries["stars"].labelled == 3


def test_a_reserved_column_can_be_named_all_the_same(table):
    row = TabularInput(["studio"])
    Preparation.fit(table, np.arange(4), {"row": row}, TARGETS, reserved=["studio"])
    assert row.columns == ("studio",)


def test_two_inputs_can_read_the_same_column(table):
    given = {name: TextInput("review", tokenizer="words", ngrams=n) for name, n in (("a", 1), ("b", 2))}
    batch = next(iter(Preparation.fit(table, np.arange(4), given, TARGETS).loader(table, batch_size=4)))
    assert batch.inputs["a"]["ids"].shape == (4, 3)
    assert batch.inputs["b"]["ids"].shape == (4, 5)


def test_a_target_cannot_be_an_input(table):
    with pytest.raises(UserError, match=r"films.csv: the column 'stars' is read by an input but also is a target"):
        Preparation.fit(table, np.arange(4), {"row": TabularInput(["length", "stars"])}, TARGETS)


def test_only_the_training_rows_are_looked_at(table):
    prepared = Preparation.fit(table, np.array([0, 1]), {"row": TabularInput(["length"])}, TARGETS)
    assert prepared.summaries["stars"].mean == (2.5,)
    (batch,) = prepared.loader(table, batch_size=4)
    np.testing.assert_allclose(batch.inputs["row"]["numeric"][:, 0], [-1, 1, 0, -1 / 3], atol=1e-6)


def test_a_state_that_went_through_json_prepares_the_same(table):
    def fresh():
        return {"text": TextInput("review", vocabulary=300), "row": TabularInput()}

    prepared = Preparation.fit(table, np.arange(4), fresh(), TARGETS)
    restored = Preparation.from_state(json.loads(json.dumps(prepared.state_dict())), fresh())
    assert restored.shapes == prepared.shapes
    assert restored.summaries == prepared.summaries
    (mine,), (theirs,) = restored.loader(table, batch_size=4), prepared.loader(table, batch_size=4)
    assert torch.equal(mine.inputs["text"]["ids"], theirs.inputs["text"]["ids"])
    assert torch.equal(mine.inputs["row"]["numeric"], theirs.inputs["row"]["numeric"])
    assert torch.equal(mine.targets["tone"], theirs.targets["tone"])
    assert torch.equal(mine.masks["stars"], theirs.masks["stars"])


def test_encoded_rows_travel_to_another_process(table):
    given = {"text": TextInput("review", vocabulary=300), "row": TabularInput()}
    loader = Preparation.fit(table, np.arange(4), given, TARGETS).loader(table, batch_size=4)
    encoded = pickle.loads(pickle.dumps(loader._encoded))
    assert len(encoded) == 4


def test_an_empty_training_part_is_refused(table):
    with pytest.raises(UserError, match=r"films.csv: the training part has no rows"):
        Preparation.fit(table, np.array([], dtype=np.int64), {"row": TabularInput()}, TARGETS)


def test_a_table_without_an_input_column_is_refused(table):
    prepared = Preparation.fit(table, np.arange(4), {"row": TabularInput(["length"])}, TARGETS)
    with pytest.raises(
        UserError, match=r"new.csv has no column 'length', which the input 'row' reads. Did you mean 'le"
    ):
        prepared.loader(_table("new.csv", lenght=[1.0]), batch_size=4, targets=False)


def test_a_table_larger_than_memory_is_read_in_parts(monkeypatch):
    generator = np.random.default_rng(0)
    rows = 20_000
    table = _table(
        x=generator.normal(size=rows), job=generator.choice(["a", "b"], rows).tolist(), y=generator.normal(size=rows)
    )
    largest = []
    original = Table.take

    def spy(self, positions, columns=None):
        largest.append(len(self) if positions is None else len(positions))
        return original(self, positions, columns)

    monkeypatch.setattr(Table, "take", spy)
    monkeypatch.setattr("polytask.data.inputs.tabular._MEDIAN_ROWS", 500)
    monkeypatch.setattr(Table, "batches", _smaller(Table.batches))
    prepared = Preparation.fit(table, np.arange(rows), {"row": TabularInput()}, {"y": TargetSpec("numbers", ("y",))})
    batches = list(prepared.loader(table, batch_size=250, cache_bytes=0))
    assert len(batches) == 80
    assert max(largest) <= 1000


def _smaller(batches):
    return lambda self, columns, rows, **_: batches(self, columns, rows, size=1000)


def test_the_inputs_are_a_family():
    assert isinstance(inputs.family, Family)
    assert inputs.names() == ("audio", "graph", "graph_columns", "graph_table", "image", "sequence", "tabular", "text")
    assert isinstance(inputs.create("image", channels=1), ImageInput)
    with pytest.raises(UserError, match=r"There is no input 'txt'. Did you mean 'text'?"):
        inputs.create("txt")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("tabular", {"columns": ["a", "b"], "missing": "error", "min_count": 3}),
        ("tabular", {"exclude": ["c"]}),
        ("text", {"column": "review", "tokenizer": "words", "ngrams": 2}),
        ("image", {"size": [32, 48], "normalize": [0.5, [0.1, 0.2, 0.3]], "flip": True, "crop": 2, "color": 0.1}),
        ("image", {"size": 32, "normalize": "imagenet", "on_error": "skip"}),
    ],
)
def test_parameters_can_be_configured(name, given):
    from polytask.config.component import make_component
    from polytask.config.families import Kind

    spec = make_component(Kind.INPUT, {"type": name, **given})
    assert {key: spec.parameters[key] for key in given} == given
    assert json.loads(json.dumps(spec.to_mapping())) == spec.to_mapping()
    assert isinstance(spec.create(), inputs.family.get(name))


# -- several inputs -------------------------------------------------------------------------------------------------


@pytest.fixture
def gaps():
    return _table(
        review=["a good film", None, "", None, "bad film"],
        length=[90.0, 120.0, None, None, 80.0],
        stars=[4.0, 1.0, 3.0, 2.0, None],
    )


STARS = {"stars": TARGETS["stars"]}


def two_inputs(**given):
    return {"text": TextInput("review", tokenizer="words", buckets=9), "row": TabularInput(["length"], **given)}


def test_rows_may_lack_one_of_several_inputs_and_those_without_any_are_left_out(gaps, caplog):
    prepared = Preparation.fit(gaps, np.arange(5), two_inputs(missing="error"), STARS)
    assert prepared.optional == {"text", "row"}
    with caplog.at_level("INFO", "polytask"):
        loader = prepared.loader(gaps, batch_size=8)
    (batch,) = loader
    assert batch.rows.tolist() == [0, 1, 2, 4]
    assert batch.inputs["text"].rows.tolist() == [0, 2, 3]
    assert batch.inputs["row"].rows.tolist() == [0, 1, 3]
    assert batch.labelled["stars"].tolist() == [0, 1, 2]
    assert loader.skipped == 1
    assert "films.csv, row 4 is left out: it has no value for any of the inputs 'text', 'row'." in caplog.text
    assert "1 of 4 rows have an empty text" in caplog.text


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_rows_in_memory_and_rows_read_each_time_are_the_same(gaps, cache_bytes):
    prepared = Preparation.fit(gaps, np.arange(5), two_inputs(), STARS)
    first, second = prepared.loader(gaps, batch_size=2, cache_bytes=cache_bytes)
    assert torch.equal(first.inputs["text"].rows, torch.tensor([0]))
    assert isinstance(first.inputs["row"], dict)
    assert isinstance(second.inputs["text"], dict)
    assert second.inputs["row"].rows.tolist() == [1]
    assert len(second.inputs["row"].values["numeric"]) == 1
    loader = prepared.loader(gaps, batch_size=5, cache_bytes=cache_bytes)
    assert loader.encoded.lengths().tolist() == [3, 0, 1, 2]


def test_an_input_that_no_training_row_has_is_refused(gaps):
    with pytest.raises(UserError, match="none of the 1 training rows has a value for the input 'row'"):
        Preparation.fit(gaps, np.array([2]), two_inputs(), STARS)


def test_a_table_may_lack_the_columns_of_an_input_that_training_rows_lacked(gaps):
    other = _table("others.csv", review=["good", "bad"])
    prepared = Preparation.fit(gaps, np.arange(5), two_inputs(), STARS)
    again = Preparation.from_state(json.loads(json.dumps(prepared.state_dict())), two_inputs())
    assert again.optional == prepared.optional
    (batch,) = again.loader(other, batch_size=8, targets=False)
    assert batch.inputs["row"].values is None
    assert len(batch.inputs["row"]) == 2
    with pytest.raises(UserError, match="no row has a value for any of the inputs"):
        again.loader(_table("none.csv", other=[1]), batch_size=8, targets=False)


def test_what_all_training_rows_had_is_asked_for_and_its_absence_told(gaps, caplog):
    prepared = Preparation.fit(gaps, np.array([0, 4]), two_inputs(), STARS)
    assert prepared.optional == frozenset()
    assert "optional" not in prepared.state_dict()
    with pytest.raises(UserError, match="no column 'length', which the input 'row' reads"):
        prepared.loader(_table("others.csv", review=["good"]), batch_size=8, targets=False)
    (batch,) = prepared.loader(gaps, np.array([1, 2]), batch_size=8)
    assert batch.inputs["text"].rows.tolist() == [1]
    assert "1 of 2 rows lack the input 'text', which every training row has" in caplog.text


def test_a_single_input_is_as_strict_as_ever(gaps):
    with pytest.raises(UserError, match="row 2: 'review' is empty"):
        Preparation.fit(gaps, np.arange(5), {"text": TextInput("review")}, STARS)


def test_several_inputs_travel_to_another_process(gaps):
    prepared = Preparation.fit(gaps, np.arange(5), two_inputs(), STARS)
    encoded = pickle.loads(pickle.dumps(prepared.loader(gaps, batch_size=2, cache_bytes=0).encoded))
    assert len(encoded) == 4
