"""Fusion: a gate, and the experts of which it makes one set of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polytask.encoders import Features
from polytask.sharing.experts import mixture_of_all
from polytask.sharing.gates import Gate, Gating, drop_experts


class Segment(NamedTuple):
    """Consecutive experts of a group.

    Attributes:
        group: The group's number.
        start: The first of them.
        stop: One behind the last.
    """

    group: int
    start: int
    stop: int


class Fusion(nn.Module):
    """`sum_e (g_e(x) + v_e) E_e(x)` with a gate g, over some experts; v is 0 for all but the unit's own experts.

    Args:
        gate: Weighs the experts.
        columns: Where these are among all experts of the level.
        own: Which of the gate's experts are added once more, `(start, stop)`: one as it is, several with learned
            weights, which start at one over their number.
        dropout: Probability of dropping an expert from the gate's mixture while training.
    """

    columns: Tensor

    def __init__(self, gate: Gate, columns: Sequence[int], own: tuple[int, int] | None, dropout: float) -> None:
        super().__init__()
        self.gate = gate
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self._place = own
        self._dropout = dropout
        count = own[1] - own[0] if own else 0
        self.own = nn.Parameter(torch.full((count,), 1 / count)) if count > 1 else None

    def forward(self, features: Tensor, outputs: Sequence[Features]) -> tuple[Features, Gating]:
        """The mixture, and what the gate said.

        Args:
            features: `[B, D]`, what the gate reads.
            outputs: What the experts found for the same rows, `[B, E, ...]` each, in the gate's order.
        """
        gating = self.gate(features)
        weights = gating.weights
        if self.training and self._dropout:
            weights = drop_experts(weights, self._dropout)
        if self._place is not None:
            start, stop = self._place
            own = weights[:, start:stop] + (1.0 if self.own is None else self.own)
            weights = torch.cat([weights[:, :start], own, weights[:, stop:]], dim=1)
        return mixture_of_all(outputs, weights), gating
