"""Parts of a batch that balancers want to see apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from polytask.data.batch import Batch


def every_row(batches: Sequence[Batch], count: int, start: int) -> list[Batch]:
    """Of each batch, every `count`-th row from the one at `start` on; none of a batch that ends before it."""
    return [batch.part(torch.arange(start, len(batch), count)) for batch in batches if len(batch) > start]


def share_of(batch: Batch, fraction: float) -> Batch:
    """The first rows, this share of them, and a labelled row of each task in the batch."""
    chosen = set(range(math.ceil(len(batch) * fraction)))
    for task, rows in batch.labelled.items():
        if rows is not None and batch.has(task):
            chosen.add(int(rows[0]))
    return batch.part(torch.tensor(sorted(chosen)))
