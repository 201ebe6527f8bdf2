"""Which rows are computed for whom: sets of row numbers, where None is all rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def union_of(rows: Sequence[Tensor | None]) -> Tensor | None:
    """The rows that are in any of some sets: sorted, unless all sets are one and the same tensor."""
    known: list[Tensor] = []
    for each in rows:
        if each is None:
            return None
        if not any(each is other for other in known):
            known.append(each)
    return known[0] if len(known) == 1 else torch.unique(torch.cat(known))


def within(rows: Tensor | None, positions: Tensor | None) -> Tensor | None:
    """Where some rows are among those at hand, which are sorted or the very same tensor; None is all of these."""
    if rows is None or rows is positions:
        return None
    return rows if positions is None else torch.searchsorted(positions, rows)
