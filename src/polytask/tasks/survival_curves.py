"""Probabilities of being without an event, over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Curves:
    """For each row the probability of being without an event at any time: linear between the ends of intervals.

    Args:
        values: `[N, J]`: at the end of each interval; it is 1 at time 0 and falls.
        edges: `[J]`: the ends of the intervals, rising.
    """

    def __init__(self, values: Tensor, edges: Tensor) -> None:
        self._values = F.pad(values, (1, 0), value=1.0)
        self._edges = F.pad(edges, (1, 0))

    def at(self, times: Tensor) -> Tensor:
        """`[N, T]`: at some times `[T]`, none of them after the last interval."""
        after = torch.searchsorted(self._edges, times).clamp(min=1)
        start, end = self._edges[after - 1], self._edges[after]
        share = (times - start) / (end - start)
        return torch.lerp(self._values[:, after - 1], self._values[:, after], share)

    def risks(self) -> Tensor:
        """`[N]`: the share of the time up to the last edge that is expected to be lost to the event."""
        means = (self._values[:, 1:] + self._values[:, :-1]) / 2
        return 1 - (means * self._edges.diff()).sum(dim=1) / self._edges[-1]

    def medians(self) -> Tensor:
        """`[N]`: when the probability is down to one half; infinite where it stays above."""
        low = self._values <= 0.5
        after = low.int().argmax(dim=1).clamp(min=1)
        late, early = (self._values.gather(1, place.unsqueeze(1)).squeeze(1) for place in (after, after - 1))
        start, end = self._edges[after - 1], self._edges[after]
        crossing = start + (end - start) * (early - 0.5) / (early - late)
        return crossing.where(low.any(dim=1), torch.inf)
