"""Gates: how much a task takes from each expert."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

RECENT = 0.05
"""The share of the latest batch in the average over recent ones."""

_LEAST = 1e-6


class Gating(NamedTuple):
    """What a gate decides for some rows.

    Attributes:
        weights: `[B, E]`.
        penalties: What it adds to the objective, by name.
    """

    weights: Tensor
    penalties: dict[str, Tensor]


class Gate(nn.Module, ABC):
    """The weights of some experts, for each row.

    While training, `usage` `[E]` follows their mean over the rows of the recent batches.

    Args:
        experts: Number of experts.
    """

    usage: Tensor

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.register_buffer("usage", torch.full((experts,), 1 / experts))

    @abstractmethod
    def weigh(self, features: Tensor) -> Gating:
        """The weights for pooled features `[B, D]`."""

    def forward(self, features: Tensor) -> Gating:
        """See `weigh`."""
        found = self.weigh(features)
        if self.training and len(features):
            with torch.no_grad():
                rows = len(found.weights)
                # A mean over the rows; as a product of matrices it takes a fraction of the time.
                mean = found.weights.new_full((1, rows), 1 / rows) @ found.weights
                self.usage.lerp_(mean.squeeze(0).to(self.usage), RECENT)
        return found


class SoftmaxGate(Gate):
    """`softmax(W x + b)`; nothing is learned where there is one expert.

    Args:
        width: Features that come in.
        experts: Number of experts.
    """

    def __init__(self, width: int, experts: int) -> None:
        super().__init__(experts)
        self.map = nn.Linear(width, experts) if experts > 1 else None

    def weigh(self, features: Tensor) -> Gating:
        """See `Gate.weigh`."""
        if self.map is None:
            return Gating(features.new_ones(len(features), 1), {})
        return Gating(self.map(features).softmax(1), {})


def drop_experts(weights: Tensor, rate: float) -> Tensor:
    """Weights `[B, E]` with some at 0, at random and for each row, and the others as much greater.

    A row of which all, or almost all, would be dropped stays as it is.
    """
    kept = weights * (torch.rand_like(weights) >= rate)
    left = kept.sum(1, keepdim=True)
    whole = weights.sum(1, keepdim=True)
    return torch.where(left > _LEAST, kept * (whole / left.clamp(min=_LEAST)), weights)


def imbalance(weights: Sequence[Tensor], columns: Sequence[Tensor], experts: int) -> Tensor:
    """How far the experts' shares of the work are from those under gates that are indifferent.

    The share of an expert is its mean weight over the gates and the rows of the batch; the measure is the
    Kullback-Leibler divergence of these shares from those under uniform gates, 0 where they are the same. For one gate,
    it is `log E` minus the entropy of its mean weights. Since it is the gates' mean that counts, tasks may well prefer
    different experts.

    Args:
        weights: For each gate `[B, E']`.
        columns: For each gate, which of the experts are those that it weighs: int64 `[E']`.
        experts: Number of experts.
    """
    shares = indifferent = weights[0].new_zeros(experts)
    for each, place in zip(weights, columns, strict=True):
        shares = shares.index_add(0, place, each.mean(0))
        indifferent = indifferent.index_add(0, place, torch.full_like(place, 1 / len(place), dtype=each.dtype))
    shares, indifferent = shares / shares.sum(), indifferent / indifferent.sum()
    # An expert that no gate of this step can see is in neither.
    return (shares * (shares.clamp(min=_LEAST) / indifferent.clamp(min=_LEAST)).log()).sum()
