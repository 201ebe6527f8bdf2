"""Inputs that only some rows of a batch have."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.data.batch import Batch
from polytask.partial import PartialInput, chosen_rows, row_count
from polytask.sharing.sharing import select_rows

from .encoders.cases import GRAPH, graphs


def texts(rows, size):
    """Texts whose id is the number of their row."""
    held = torch.tensor(rows, dtype=torch.int64)
    values = {"ids": held[:, None].expand(-1, 3), "mask": torch.ones(len(rows), 3, dtype=torch.bool)} if rows else None
    return PartialInput(values, held, size)


def held(part):
    """The numbers of the rows, where each is now."""
    found = [None] * len(part)
    for place, row in enumerate(part.rows.tolist()):
        found[row] = int(part.values["ids"][place, 0])
    return found


@st.composite
def choices(draw):
    size = draw(st.integers(1, 8))
    rows = sorted(draw(st.sets(st.integers(0, size - 1))))
    return size, rows, draw(st.lists(st.integers(0, size - 1), max_size=10))


@given(choices())
def test_chosen_rows_have_what_they_had(case):
    size, rows, chosen = case
    expected = [row if row in rows else None for row in chosen]
    part = texts(rows, size).select(torch.tensor(chosen, dtype=torch.int64))
    assert len(part) == len(chosen)
    assert part.rows.tolist() == [place for place, row in enumerate(expected) if row is not None]
    assert held(part) == expected
    assert (part.values is None) == (not len(part.rows))


def test_batches_choose_and_move_rows_of_every_form():
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "text": texts([1, 2, 5], 6),
        "molecule": PartialInput(graphs([2, 1, 3], GRAPH, draw), torch.tensor([0, 2, 3]), 6),
        "picture": PartialInput(torch.arange(2.0)[:, None], torch.tensor([4, 5]), 6),
        "whole": torch.arange(6.0),
        "none": PartialInput(None, torch.tensor([], dtype=torch.int64), 6),
    }
    batch = Batch.of(inputs, {}, {}, torch.arange(6)).to("cpu").part(torch.tensor([5, 3, 0]))
    assert held(batch.inputs["text"]) == [5, None, None]
    assert batch.inputs["molecule"].rows.tolist() == [1, 2]
    assert batch.inputs["molecule"].values.nodes.tolist() == [3, 2]
    assert batch.inputs["picture"].values.tolist() == [[1.0]]
    assert batch.inputs["none"].values is None
    again = select_rows({"inputs": batch.inputs}, torch.tensor([1]))["inputs"]
    assert again["text"].values is None
    assert len(again["molecule"].values) == 1


def test_values_move_and_the_rows_stay_where_they_are():
    part = texts([0, 2], 3).map(lambda tensor: tensor + 1)
    assert part.values["ids"][:, 0].tolist() == [1, 3]
    assert part.rows.tolist() == [0, 2]


def test_rows_are_counted_through_names():
    assert row_count({"a": {"ids": torch.zeros(4, 2)}}) == 4
    assert row_count({"a": texts([1], 7)}) == 7
    assert chosen_rows(torch.zeros(3), torch.tensor([], dtype=torch.int64)) is None
