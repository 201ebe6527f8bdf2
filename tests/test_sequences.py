import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.row_values import join_values, select_values, spread_values
from polytask.sequences import BLANK, Sequences, padded


def sequences(*rows):
    values = torch.full((len(rows), max(map(len, rows))), BLANK)
    for number, row in enumerate(rows):
        values[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Sequences(values, torch.tensor([len(row) for row in rows]))


def rows_of(found):
    return [row[:length].tolist() for row, length in zip(found.values, found.lengths, strict=True)]


rows_st = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(first=rows_st, second=rows_st)
def test_joining_pads_and_keeps_every_row(first, second):
    assert rows_of(join_values([sequences(*first), sequences(*second)])) == first + second


@settings(max_examples=30, deadline=None)
@given(rows=rows_st, data=st.data())
def test_rows_are_selected_in_order(rows, data):
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    assert rows_of(select_values(sequences(*rows), torch.tensor(wanted))) == [rows[row] for row in wanted]


def test_rows_are_spread_among_blank_ones():
    found = spread_values(sequences([3, 4], [5]), 1, 4)
    assert rows_of(found) == [[], [3, 4], [5], []]
    assert (found.values[0] == BLANK).all()
    assert found.mask.tolist() == [[False, False], [True, True], [True, False], [False, False]]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_padding_adds_blanks_or_cuts(length):
    assert padded(torch.tensor([[1, 2]]), length).tolist() == [([1, 2] + [BLANK] * 3)[:length]]
    assert padded(torch.ones(2, 2, 3), length).shape == (2, length, 3)
