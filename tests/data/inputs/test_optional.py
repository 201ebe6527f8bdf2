"""Inputs that rows may lack, as one of several."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.data.encoded import Dense, Ragged
from polytask.data.inputs import GraphInput, TabularInput, TextInput
from polytask.data.inputs.optional import OptionalInput, PartialRows, rows_with
from polytask.data.table import Table
from polytask.partial import PartialInput


def columns(**values):
    return [pa.chunked_array([part]) for part in values.values()]


def test_a_row_has_an_input_with_a_value_in_any_of_its_columns():
    numbers, words = [1.0, None, None, float("nan")], [None, "x", None, None]
    assert rows_with(columns(n=numbers, w=words), 4).tolist() == [True, True, False, False]
    assert rows_with(columns(w=["", None]), 2).tolist() == [True, False]
    assert rows_with([], 2).tolist() == [False, False]
    assert rows_with([pa.chunked_array([pa.nulls(1)]), pa.chunked_array([[b"bytes"]])], 1).tolist() == [True]
    chunked = pa.chunked_array([["a"], [None, "b"]])
    assert rows_with([chunked.dictionary_encode()], 3).tolist() == [True, False, True]


@st.composite
def encoded(draw):
    """Rows whose value is their number, some lacking it, as dense or as ragged rows."""
    there = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=8)))
    numbers = np.flatnonzero(there)
    values = None
    if len(numbers):
        dense = Dense({"n": torch.from_numpy(numbers)})
        values = dense if draw(st.booleans()) else Ragged.of([[number] * (1 + number) for number in numbers])
    return there, PartialRows(values, np.where(there, there.cumsum() - 1, -1))


def shown(part):
    """For each row its number, or None."""
    if part.values is None:
        return [None] * len(part)
    found = part.values.tensors["n"].numpy() if isinstance(part.values, Dense) else None
    if found is None:
        found = np.array([row[0] for row in np.split(part.values.values, part.values.lengths.cumsum()[:-1])])
    return [None if place < 0 else int(found[place]) for place in part.places]


@given(encoded(), st.data())
def test_chosen_rows_keep_their_values(case, data):
    there, rows = case
    numbers = [number if has else None for number, has in enumerate(there)]
    assert shown(rows) == numbers
    chosen = data.draw(st.lists(st.integers(0, len(there) - 1), max_size=8))
    part = rows.select(np.array(chosen, dtype=np.int64))
    assert shown(part) == [numbers[place] for place in chosen]
    assert len(part) == len(chosen)
    twice = PartialRows.join([rows, part])
    assert shown(twice) == [*numbers, *(numbers[place] for place in chosen)]
    assert twice.nbytes >= rows.nbytes


def test_rows_that_lack_a_text_have_the_length_0():
    rows = PartialRows(Ragged.of([[5], [6, 7, 8]]), np.array([0, -1, 1]))
    assert rows.lengths.tolist() == [1, 0, 3]
    assert PartialRows(None, np.array([-1, -1])).lengths.tolist() == [0, 0]
    assert PartialRows(Dense({"n": torch.zeros(1)}), np.array([0])).lengths is None


@pytest.fixture
def table():
    return Table.from_arrow(
        pa.table(
            {
                "text": ["good film", None, "", "bad film"],
                "length": [90.0, None, None, 80.0],
                "country": ["fr", None, "de", "fr"],
                "smiles": [None, "CCO", "C", None],
            }
        ),
        source="films.csv",
    )


def encode(source, table, rows):
    reader = OptionalInput(source, table)
    part = table.take(rows, list(reader.columns))
    return reader, reader.encode(part, rows, table)


def test_an_empty_text_is_a_text_and_an_empty_cell_is_none(table):
    text = TextInput("text", tokenizer="words", buckets=9)
    text.resolve(table, ())
    OptionalInput(text, table).fit(table, np.arange(4), {})
    rows = np.array([3, 1, 2])
    reader, encoding = encode(text, table, rows)
    assert encoding.empty == 1
    found = reader.collate(encoding.values, rows, None)
    assert isinstance(found, PartialInput)
    assert found.rows.tolist() == [0, 2]
    assert len(found) == 3
    assert found.values["mask"].sum(1).tolist() == [2, 1]


def test_where_all_rows_have_it_an_input_is_as_it_is(table):
    row = TabularInput(["length", "country"])
    row.resolve(table, ())
    OptionalInput(row, table).fit(table, np.arange(4), {})
    rows = np.array([0, 2])  # row 2 has no length, but a country
    reader, encoding = encode(row, table, rows)
    found = reader.collate(encoding.values, rows, None)
    assert torch.equal(found["categorical"], torch.tensor([[3], [2]]))
    _, expected = None, row.encode(table.take(rows, list(row.columns)), rows, table).values.tensors
    torch.testing.assert_close(found["numeric"], expected["numeric"])


def test_rows_that_all_lack_it_are_read_of_no_column(table):
    pytest.importorskip("rdkit")
    graph = GraphInput("smiles")
    graph.resolve(table, ())
    other = Table.from_arrow(pa.table({"text": ["x", "y"]}), source="other.csv")
    rows = np.arange(2)
    for where in (other, table):
        chosen = rows if where is other else np.array([0, 3])
        reader, encoding = encode(graph, where, chosen)
        found = reader.collate(encoding.values, chosen, None)
        assert found.values is None
        assert (len(found), len(found.rows)) == (2, 0)
    assert OptionalInput(graph, other).columns == ()
    assert OptionalInput(graph, other).there(other).tolist() == [False, False]


def test_only_rows_that_have_it_are_learned_from(table):
    row = TabularInput(["length"])
    row.resolve(table, ())
    OptionalInput(row, table).fit(table, np.arange(4), {})
    assert row.state_dict()["numeric"][0]["mean"] == 85.0
    assert not row.state_dict()["numeric"][0]["indicator"]
