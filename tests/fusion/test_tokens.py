"""Features of every kind as tokens, and the tokens of several modalities in one sequence."""

import pytest
import torch
from torch.nn import functional as F

from polytask.features import Features
from polytask.fusion.modalities import Present
from polytask.fusion.tokens import grid_positions, packed, tokens_of

from ..encoders.cases import GRAPH, graphs


def test_a_vector_is_one_token():
    values = torch.randn(3, 4)
    tokens, mask = tokens_of(Features(values), 8)
    assert torch.equal(tokens, values[:, None])
    assert mask is None


def test_the_cells_of_a_map_are_tokens_row_by_row():
    values = torch.arange(2 * 3 * 2 * 4.0).view(2, 3, 2, 4)
    tokens, mask = tokens_of(Features(values), 8)
    assert tokens.shape == (2, 8, 3)
    assert torch.equal(tokens[1, 5], values[1, :, 1, 1])
    assert mask is None


def test_a_large_map_is_averaged_to_the_grid():
    values = torch.randn(2, 3, 8, 6)
    tokens, _ = tokens_of(Features(values), 2)
    expected = torch.stack([values[..., :4, :3], values[..., :4, 3:], values[..., 4:, :3], values[..., 4:, 3:]], 1)
    torch.testing.assert_close(tokens, expected.mean((3, 4)))


def test_nodes_are_the_tokens_of_their_graph():
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(4, 5)
    tokens, mask = tokens_of(Features(values, None, graphs([1, 0, 3], GRAPH, draw)), 8)
    assert mask.tolist() == [[True, False, False], [True, False, False], [True, True, True]]
    assert torch.equal(tokens[0, 0], values[0])
    assert torch.equal(tokens[2], values[1:])
    assert not tokens[1].any()  # a graph without nodes has a token all the same


@pytest.mark.parametrize("grid", [2, 3, 5, 20])
def test_maps_of_several_lengths_are_averaged_each_by_itself(grid):
    lengths = [7, 3, 1]
    values = torch.randn(3, 2, 4, 7)
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    tokens, real = tokens_of(Features(values, mask), grid)
    for row, length in enumerate(lengths):
        own = values[row : row + 1, :, :, :length]
        cells = (min(4, grid), min(length, grid))
        expected = F.adaptive_avg_pool2d(own, cells).flatten(2).transpose(1, 2)[0]
        torch.testing.assert_close(tokens[row][real[row]], expected)
        assert int(real[row].sum()) == cells[0] * cells[1]


def test_positions_tell_every_cell_from_every_other():
    positions = grid_positions(4, 5, 16)
    assert positions.shape == (20, 16)
    assert torch.cdist(positions, positions).fill_diagonal_(1.0).min() > 0.1
    assert torch.equal(positions[0, :8], positions[4, :8])  # one row
    assert torch.equal(positions[1, 8:], positions[16, 8:])  # one column
    torch.testing.assert_close(positions.square().sum(1), torch.full((20,), 8.0))


def test_all_rows_with_all_modalities_are_put_side_by_side():
    a, b = torch.randn(2, 3, 4), torch.randn(2, 1, 4)
    present = [Present(Features(a), None), Present(Features(b), None)]
    tokens, mask = packed(present, [a, b], [None, None], 2)
    assert torch.equal(tokens, torch.cat([a, b], 1))
    assert mask is None
    known = torch.tensor([[True, True, False], [True, False, False]])
    assert packed(present, [a, b], [known, None], 2)[1].tolist() == [
        [True, True, False, True],
        [True, False, False, True],
    ]


def test_a_row_takes_the_room_of_what_it_has():
    a, b = torch.randn(2, 3, 4), torch.randn(2, 2, 4)
    present = [Present(Features(a), torch.tensor([0, 2])), Present(Features(b), torch.tensor([1, 2]))]
    tokens, mask = packed(present, [a, b], [None, torch.tensor([[True, False], [True, True]])], 3)
    assert tokens.shape == (3, 5, 4)
    assert mask.tolist() == [[True] * 3 + [False] * 2, [True] + [False] * 4, [True] * 5]
    assert torch.equal(tokens[0, :3], a[0])
    assert torch.equal(tokens[1, 0], b[0, 0])
    assert torch.equal(tokens[2], torch.cat([a[1], b[1]]))


def test_rows_of_different_modalities_are_as_long_as_the_longest_of_these():
    a, b = torch.randn(1, 3, 4), torch.randn(2, 3, 4)
    present = [Present(Features(a), torch.tensor([1])), Present(Features(b), torch.tensor([0, 2]))]
    tokens, mask = packed(present, [a, b], [None, None], 3)
    assert torch.equal(tokens, torch.stack([b[0], a[0], b[1]]))
    assert mask is None
