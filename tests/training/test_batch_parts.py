"""Parts of a batch."""

import pytest
import torch

from polytask.data.batch import Batch
from polytask.training.batch_parts import every_row, share_of


def batch(rows, labelled):
    positions = torch.arange(rows)
    known = torch.isin(positions, torch.tensor(labelled, dtype=torch.int64))
    return Batch.of({"x": torch.ones(rows, 2)}, {"a": torch.zeros(rows).long()}, {"a": known}, positions)


@pytest.mark.parametrize(
    ("labelled", "expected"), [([0, 5], [0, 1, 2]), ([7, 8], [0, 1, 2, 7]), ([], [0, 1, 2]), (range(9), [0, 1, 2])]
)
def test_a_share_has_the_first_rows_and_one_with_a_label(labelled, expected):
    assert share_of(batch(9, list(labelled)), 0.25).rows.tolist() == expected


def test_every_row_is_in_one_part():
    batches = [batch(5, [0]), batch(1, [0])]
    parts = [every_row(batches, 2, start) for start in range(2)]
    assert [[part.rows.tolist() for part in each] for each in parts] == [[[0, 2, 4], [0]], [[1, 3]]]
