import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.encoded_rows import EncodedRows
from polytask.data.inputs import SequenceInput, TabularInput
from polytask.data.inputs.draws import Draws
from polytask.data.preparation import Preparation
from polytask.data.request import Request
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec
from polytask.shapes import SequenceShape

NAN = float("nan")


def _table(**columns):
    return Table.from_arrow(pa.table(columns), source="steps.csv")


def _fitted(table, columns, **parameters):
    source = SequenceInput(columns, **parameters)
    source.resolve(table, ())
    source.fit(table, np.arange(len(table)), {})
    return source


def _encode(source, table):
    rows = np.arange(len(table))
    return source.encode(table.take(rows), rows, table)


def _read(table, columns, draws=None, **parameters):
    """What the network reads, as lists in the user's units, padding cut off; and the input."""
    source = _fitted(table, columns, **parameters)
    batch = source.collate(_encode(source, table).values, np.arange(len(table)), draws)
    return [values[mask].numpy() for values, mask in zip(batch["values"], batch["mask"], strict=True)], source


LISTS = [[1.0, 2.0, 6.0], [3.0], [8.0, 4.0]]


@pytest.mark.parametrize(
    "table",
    [
        _table(x=pa.array(LISTS)),
        _table(x=pa.array(LISTS, pa.list_(pa.float32()))),
        _table(x=pa.array([[1, 2, 6], [3], [8, 4]], pa.large_list(pa.int16()))),
        _table(x=pa.array([["1", "2", "6"], ["3.0"], ["8", " 4 "]])),
        _table(x=["1 2 6", " 3 ", "8  4.0"]),
        _table(x=["1,2,6", "3", "[8, 4e0]"]),
        _table(x=["(1;2;6)", "3", "8; 4"]),
        _table(x=pa.array([[[1], [2], [6]], [[3]], [[8], [4]]])),
    ],
    ids=["float64", "float32", "integers", "strings", "spaces", "commas", "semicolons", "lists of lists"],
)
def test_every_form_is_read_standardised_and_padded(table):
    source = _fitted(table, "x")
    assert source.shape == SequenceShape(channels=1, length=3)
    batch = source.collate(_encode(source, table).values, np.arange(3), None)
    assert batch["mask"].tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    values = np.array([1.0, 2, 6, 3, 8, 4])
    expected = torch.tensor((values - values.mean()) / values.std(), dtype=torch.float32)
    torch.testing.assert_close(batch["values"][batch["mask"]][:, 0], expected)
    assert not batch["values"][~batch["mask"]].any()


def test_columns_are_channels_each_standardised_for_itself():
    table = _table(a=LISTS, b=["10 20 30", "40", "50 60"])
    found, source = _read(table, ["a", "b"])
    assert source.shape == SequenceShape(channels=2, length=3)
    both = np.concatenate(found)
    np.testing.assert_allclose(both.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(both.std(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(both[:, 1], (np.arange(10, 70, 10) - 35) / np.arange(10, 70, 10).std(), rtol=1e-5)


def test_a_list_of_lists_has_the_channels_of_each_step():
    table = _table(x=pa.array([[[1.0, 10.0], [2.0, 20.0]], [[3.0, 60.0], None]]))
    found, source = _read(table, "x")
    assert source.shape.channels == 4, "two of values, two of what is missing"
    assert found[0].shape == (2, 4)
    np.testing.assert_array_equal(found[1][:, 2:], [[0, 0], [1, 1]])
    np.testing.assert_allclose(found[1][1, :2], found[1][0, :2])


def test_columns_of_numbers_are_steps_and_empty_cells_at_the_end_are_none():
    table = _table(t0=[1.0, 3.0, 8.0], t1=[2.0, None, None], t2=[6, None, 4], other=["a", "b", "c"])
    for columns in (["t0", "t1", "t2"], "t?"):
        found, source = _read(table, columns)
        assert source.columns == ("t0", "t1", "t2")
        assert source.shape == SequenceShape(channels=2, length=3)
        assert [len(row) for row in found] == [3, 1, 3]
        np.testing.assert_array_equal(found[2][:, 1], [0, 1, 0])
        np.testing.assert_allclose(found[2][1, 0], found[2][0, 0])


def test_missing_steps_take_the_value_before_them_or_the_mean():
    table = _table(x=pa.array([[None, 2.0, NAN, None, 4.0], [NAN, 6.0]]))
    before, source = _read(table, "x")
    assert source.shape.channels == 2
    two, four, six = ((value - 4) / np.sqrt(8 / 3) for value in (2, 4, 6))
    np.testing.assert_allclose(before[0][:, 0], [0, two, two, two, four], atol=1e-6)
    np.testing.assert_allclose(before[1][:, 0], [0, six], atol=1e-6, err_msg="nothing comes from the row before")
    np.testing.assert_array_equal(before[0][:, 1], [1, 0, 1, 1, 0])
    mean, _ = _read(table, "x", fill="mean")
    np.testing.assert_allclose(mean[0][:, 0], [0, two, 0, 0, four], atol=1e-6)
    plain, source = _read(table, "x", indicators=False)
    assert source.shape.channels == 1
    np.testing.assert_array_equal(plain[0][:, 0], before[0][:, 0])


def test_an_empty_place_between_separators_is_a_missing_step():
    found, _ = _read(_table(x=["1,,3", "2,nan,", "5,NA,7"]), "x", separator=",")
    assert [row[:, 1].tolist() for row in found] == [[0, 1, 0], [0, 1, 1], [0, 1, 0]]


def test_only_the_training_part_decides_mean_and_indicators():
    table = _table(x=pa.array([[1.0, 3.0], [2.0, None]]))
    source = SequenceInput("x")
    source.resolve(table, ())
    source.fit(table, np.array([0]), {})
    assert source.shape == SequenceShape(1, 2)
    batch = source.collate(_encode(source, table).values, np.arange(2), None)
    torch.testing.assert_close(batch["values"][:, :, 0], torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))


def test_longer_series_are_cut():
    table = _table(x=pa.array([[1.0, 2, 3, 4], [5.0]]))
    last, source = _read(table, "x", length=2)
    assert source.shape.length == 2
    first, _ = _read(table, "x", length=2, keep="first")
    whole, _ = _read(table, "x")
    np.testing.assert_array_equal(last[0], whole[0][2:])
    np.testing.assert_array_equal(first[0], whole[0][:2])
    assert len(last[1]) == 1
    other = _table(x=pa.array([[9.0] * 7]))
    assert _encode(source, other).values.lengths.tolist() == [2]


BAD = {
    None: "there is no series",
    "": "the series is empty",
    "1 two 3": "step 2 is 'two', which is not a number",
    "nan nan": "all steps are missing",
    "1 inf": "the series has an infinite value",
}


@pytest.mark.parametrize(("text", "problem"), BAD.items())
def test_a_text_that_is_no_series_is_an_error_or_skipped(text, problem):
    table = _table(x=["1 2", text, "3"])
    source = SequenceInput("x")
    source.resolve(table, ())
    with pytest.raises(UserError) as raised:
        source.fit(table, np.arange(3), {})
    assert f"steps.csv, row 2: {problem}" in str(raised.value)
    assert "on_error: skip" in str(raised.value)
    source = _fitted(table, "x", on_error="skip")
    assert _encode(source, table).failures == {1: problem}
    rows = EncodedRows(table, np.arange(3), {"series": source}, {}, seed=None, cache_bytes=10**6)
    assert rows.rows.tolist() == [0, 2]
    streamed = EncodedRows(table, np.arange(3), {"series": source}, {}, seed=None, cache_bytes=0)
    fetched = streamed[Request(0, np.array([2, 1, 0]))]
    assert fetched.batch.inputs["series"]["mask"].tolist() == [[True, False], [True, True]]
    assert list(fetched.failures) == [1]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"x": pa.array([[1.0], None, [2.0]])}, "there is no series"),
        ({"x": pa.array([[1.0], [], [2.0]])}, "the series is empty"),
        ({"x": pa.array([[1.0], [None, NAN], [2.0]])}, "all steps are missing"),
        ({"x": pa.array([[1.0], [1.0, float("inf")], [2.0]])}, "an infinite value"),
        ({"x": pa.array([[[1.0]], [[1.0], [2.0, 3.0]], [[2.0]]])}, "from 1 to 2 numbers, not all the same"),
        ({"x": pa.array([[[1.0]], [[2.0, 3.0]], [[2.0]]])}, "have 2 numbers, but those of rows before it 1"),
        ({"x": pa.array([[1.0], [1.0, 2.0], [2.0]]), "y": ["1", "2", "3"]}, "'x' has 2 steps and 'y' 1"),
        ({"x": pa.array([[1.0], [1.0], [2.0]]), "y": ["1", "a", "3"]}, "'y': step 1 is 'a'"),
    ],
)
def test_the_rows_around_a_bad_one_are_read(columns, problem):
    table = _table(**columns)
    source = _fitted(table, list(columns), on_error="skip")
    encoding = _encode(source, table)
    assert problem in encoding.failures[1]
    assert list(encoding.failures) == [1]
    assert encoding.values.lengths[[0, 2]].tolist() == [1, 1]
    with pytest.raises(UserError, match=r"steps.csv, row 2: "):
        _fitted(table, list(columns))


def test_what_cannot_be_a_series_is_named():
    table = _table(x=[1.0, 2.0], d=pa.array([1, 2], pa.date32()), s=["1 2", "3"], z=pa.array([[True], [False]]))
    with pytest.raises(UserError, match="'x' has one number a row, which is no series"):
        SequenceInput("x").resolve(table, ())
    with pytest.raises(UserError, match=r"the column 'd' \(date\) cannot be part of a sequence"):
        SequenceInput(["s", "d"]).resolve(table, ())
    with pytest.raises(UserError, match=r"the column 'x' \(number\) cannot be part"):
        SequenceInput(["s", "x"]).resolve(table, ())
    with pytest.raises(UserError, match="no column 'w'"):
        SequenceInput("w").resolve(table, ())
    with pytest.raises(UserError, match="no column like 'w_"):
        SequenceInput("w_*").resolve(table, ())
    with pytest.raises(UserError, match="'s' is read by an input but also is a target"):
        SequenceInput("s").resolve(table, {"s"})
    structs = _table(x=pa.array([[{"a": 1}], [{"a": 2}]]))
    source = SequenceInput("x")
    source.resolve(structs, ())
    with pytest.raises(UserError, match="the column 'x' holds list<.*not series"):
        source.fit(structs, np.arange(2), {})
    none = _table(x=pa.array([None, []], pa.list_(pa.float64())))
    with pytest.raises(UserError, match="none of the training series in 'x' can be read; the last one: steps.csv, row"):
        _fitted(none, "x", on_error="skip")


def test_other_channels_than_in_training_are_refused():
    source = _fitted(_table(x=pa.array([[[1.0, 2.0]], [[3.0, 4.0]]])), "x")
    with pytest.raises(UserError, match=r"row 1: a step of 'x' has 1 numbers, but 2 in the training series"):
        _encode(source, _table(x=pa.array([[[1.0]], [[3.0]]])))


def test_a_tabular_input_behind_it_does_not_read_its_steps():
    table = _table(t0=[1.0, 2, 3, 4], t1=[2.0, 2, 5, 1], age=[30.0, 20, 40, 10], y=[1.0, 2, 3, 5])
    series, row = SequenceInput("t*"), TabularInput()
    inputs = {"series": series, "row": row}
    Preparation.fit(table, np.arange(4), inputs, {"y": TargetSpec("numbers", ("y",))})
    assert series.columns == ("t0", "t1")
    assert row.columns == ("age",)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    crop=st.sampled_from([0.0, 0.5, 0.9]),
    scale=st.sampled_from([0.0, 0.3]),
    jitter=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 1000),
)
def test_augmentation_depends_on_seed_epoch_and_row_alone(lengths, crop, scale, jitter, seed):
    draw = np.random.default_rng(seed)
    table = _table(x=[draw.normal(size=length).tolist() for length in lengths])
    source = _fitted(table, "x", crop=crop, scale=scale, jitter=jitter)
    assert source.augments == bool(crop or scale or jitter)
    values = _encode(source, table).values
    rows = np.arange(len(lengths))
    together = source.collate(values, rows, Draws(seed, 3))
    for row in rows:
        alone = source.collate(values.select(np.array([row])), np.array([row]), Draws(seed, 3))
        kept = int(alone["mask"].sum())
        assert np.ceil(lengths[row] * (1 - crop)) <= kept <= lengths[row]
        assert together["mask"][row].sum() == kept
        torch.testing.assert_close(together["values"][row, :kept], alone["values"][0, :kept])
        if not (scale or jitter):
            whole = values.select(np.array([row])).values
            windows = [whole[start : start + kept] for start in range(lengths[row] - kept + 1)]
            assert any(np.array_equal(alone["values"][0, :kept].numpy(), window) for window in windows)
    gentle = source.collate(values, rows, Draws(seed, 3, gentle=True))
    assert gentle["mask"].sum(dim=1).tolist() == lengths


def test_noise_and_factors_are_as_large_as_asked_and_differ_each_epoch():
    table = _table(a=[[1.0, 2.0] * 200] * 100, b=[[5.0, 1.0] * 200] * 100, c=pa.array([[None, 1.0] * 200] * 100))
    rows = np.arange(100)
    plain = _fitted(table, ["a", "b", "c"])
    values = _encode(plain, table).values
    clean = plain.collate(values, rows, None)["values"]
    for name in ("jitter", "scale"):
        source = _fitted(table, ["a", "b", "c"], **{name: 0.3})
        first, second = (source.collate(values, rows, Draws(0, epoch))["values"] for epoch in (0, 1))
        assert not torch.equal(first, second)
        assert torch.equal(first[..., 3], clean[..., 3]), "what is missing is left alone"
        change = first - clean if name == "jitter" else first[:, 0, :2] / clean[:, 0, :2] - 1
        change = change[..., :2]
        assert abs(change.mean()) < 0.06
        assert change.std() == pytest.approx(0.3, rel=0.15)
        if name == "scale":
            ratio = first[..., :2] / clean[..., :2]
            torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-5)


def test_state_and_pickle_restore_it():
    table = _table(x=["1,,3", "2,5", "4"], t0=[1.0, 2, 3], t1=[3.0, None, 1])
    for columns, parameters in (("x", {"separator": ",", "length": 2}), (["t0", "t1"], {})):
        source = _fitted(table, columns, **parameters)
        other = SequenceInput(columns, **parameters)
        other.load_state_dict(json.loads(json.dumps(source.state_dict())))
        for again in (other, pickle.loads(pickle.dumps(source))):
            assert again.shape == source.shape
            assert again.columns == source.columns
            np.testing.assert_array_equal(_encode(again, table).values.values, _encode(source, table).values.values)


def test_the_statistics_do_not_depend_on_how_the_rows_are_cut(monkeypatch):
    draw = np.random.default_rng(0)
    table = _table(x=[draw.normal(1e6, 3, draw.integers(1, 9)).tolist() for _ in range(60)])
    whole = _fitted(table, "x").state_dict()
    monkeypatch.setattr("polytask.data.inputs.sequence._FITTED_ROWS", 7)
    parts = _fitted(table, "x").state_dict()
    assert parts["mean"] == pytest.approx(whole["mean"])
    assert parts["std"] == pytest.approx(whole["std"], rel=1e-6)
    assert parts["length"] == whole["length"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"columns": []}, "columns is empty"),
        ({"columns": "x", "separator": ""}, "separator is empty"),
        ({"columns": "x", "length": 0}, "length is 0"),
        ({"columns": "x", "crop": 1.0}, "crop is 1.0, but is a share"),
        ({"columns": "x", "scale": -1.0}, "scale is -1.0"),
        ({"columns": "x", "jitter": NAN}, "jitter is nan"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        SequenceInput(**parameters)
