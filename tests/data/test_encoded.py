import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.data.encoded import Dense, GraphRows, Ragged

ROWS = st.lists(st.lists(st.integers(1, 100), max_size=6), min_size=1, max_size=8)


def _rows(ragged):
    ends = np.cumsum(ragged.lengths)
    return [part.tolist() for part in np.split(ragged.values, ends[:-1])]


@given(rows=ROWS, data=st.data())
def test_ragged_rows_can_be_selected_joined_and_padded(rows, data):
    ragged = Ragged.of(rows)
    assert _rows(ragged) == rows
    positions = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10)), dtype=np.int64)
    selected = ragged.select(positions)
    assert [len(selected), *selected.lengths] == [len(positions), *(len(rows[p]) for p in positions)]
    if len(positions):
        assert _rows(selected) == [rows[p] for p in positions]
    assert _rows(Ragged.join([ragged, ragged])) == rows + rows
    ids, mask = ragged.padded(padding=0)
    assert ids.dtype == torch.int64
    assert ids.shape == mask.shape == (len(rows), max(1, *map(len, rows), 0))
    assert [row[real].tolist() for row, real in zip(ids, mask, strict=True)] == rows
    assert (ids[~mask] == 0).all()


@given(rows=ROWS)
def test_empty_ragged_rows_can_be_filled(rows):
    ragged = Ragged.of(rows)
    filled = ragged.filled(ragged.lengths == 0, 7)
    assert _rows(filled) == [row or [7] for row in rows]


def test_a_window_of_each_ragged_row():
    ragged = Ragged.of([[1, 2, 3], [4], [5, 6]])
    assert _rows(ragged.window(1, np.array([2, 0, 1]))) == [[2, 3], [], [6]]


def test_dense_rows_can_be_selected_and_joined():
    dense = Dense({"a": torch.arange(6).reshape(3, 2), "b": torch.arange(3.0)})
    selected = dense.select(np.array([2, 0]))
    assert selected.tensors["a"].tolist() == [[4, 5], [0, 1]]
    assert selected.tensors["b"].tolist() == [2, 0]
    joined = Dense.join([dense, selected])
    assert len(joined) == 5
    assert joined.tensors["b"].tolist() == [0, 1, 2, 2, 0]
    assert dense.nbytes == 6 * 8 + 3 * 4


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=6), data=st.data())
def test_graphs_can_be_selected_and_joined(rows, data):
    nodes, edges = (np.array(sizes, dtype=np.int64) for sizes in zip(*rows, strict=True))
    values = np.arange(2 * nodes.sum(), dtype=np.uint8).reshape(-1, 2)
    ends = np.arange(3 * edges.sum(), dtype=np.int32).reshape(-1, 3)
    numbers = np.arange(nodes.sum(), dtype=np.float32)[:, None]
    graphs = GraphRows(Ragged(values, nodes), Ragged(ends, edges), Ragged(numbers, nodes))
    assert len(graphs) == len(rows)
    assert graphs.nbytes >= values.nbytes + ends.nbytes
    positions = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8)), dtype=np.int64)
    selected = graphs.select(positions)
    for name in ("nodes", "edges", "numbers"):
        whole = _rows(getattr(graphs, name))
        assert _rows(getattr(selected, name)) == [whole[position] for position in positions]
    both = GraphRows.join([graphs, selected])
    assert _rows(both.edges) == _rows(graphs.edges) + _rows(selected.edges)
    assert _rows(both.numbers) == _rows(graphs.numbers) + _rows(selected.numbers)
    assert both.edge_numbers is None
    assert len(both) == len(rows) + len(positions)
