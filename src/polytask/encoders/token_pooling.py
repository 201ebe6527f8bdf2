"""From tokens to one vector a text, padding left out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from polytask.encoders.encoder import Stage
from polytask.features import Features, FeatureShape

Pooling = Literal["mean", "max", "first", "last"]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` `[B, T, D]` where `mask` `[B, T]` is true: `[B, D]`, zero for a text without tokens."""
    real = mask.to(values.dtype).unsqueeze(1)
    # A product instead of a masked sum: no second tensor of the size of `values`.
    return (real @ values).squeeze(1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """Maximum of `values` `[B, T, D]` where `mask` `[B, T]` is true: `[B, D]`, zero for a text without tokens."""
    highest = values.masked_fill(~mask.unsqueeze(2), float("-inf")).amax(dim=1)
    return highest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


def last_token(values: Tensor, mask: Tensor) -> Tensor:
    """The last of `values` `[B, T, D]` where `mask` `[B, T]` is true: `[B, D]`."""
    last = (mask.sum(dim=1) - 1).clamp(min=0)
    return values.gather(1, last[:, None, None].expand(-1, 1, values.shape[2])).squeeze(1)


class TokenPool(Stage):
    """Tokens to one `vector`.

    Of rows with two texts, `mean` and `max` are taken of either, and compared; see `compared`.

    Args:
        width: Number of features of a token.
        pooling: `mean` or `max` over the tokens, or the `first` or `last` of them.
        norm: Applied to each token before.
        dropout: Probability of dropping a feature of the result while training.
        segments: Number of texts of one row, 1 or 2.
    """

    def __init__(
        self, width: int, pooling: Pooling, norm: nn.Module | None = None, dropout: float = 0.0, segments: int = 1
    ) -> None:
        pairs = segments > 1 and pooling in ("mean", "max")
        shape = FeatureShape("vector", COMPARED * width if pairs else width)
        super().__init__(nn.Identity() if norm is None else norm, shape)
        self.pairs = pairs
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """`[B, T, D]` with a mask `[B, T]` to `[B, D]`, or `[B, 4 D]` of pairs."""
        mask = features.mask
        if mask is None:
            mask = features.values.new_ones(features.values.shape[:2]).bool()
        values = self.module(features.values)
        if self.pairs:
            assert features.segments is not None
            first, second = (self._pooled(values, mask & (features.segments == number)) for number in (0, 1))
            return Features(self.dropout(compared(first, second)))
        return Features(self.dropout(self._pooled(values, mask)))

    def _pooled(self, values: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "mean":
            return masked_mean(values, mask)
        if self.pooling == "max":
            return masked_max(values, mask)
        return values[:, 0] if self.pooling == "first" else last_token(values, mask)


COMPARED = 4
"""How many times as wide `compared` is."""


def compared(first: Tensor, second: Tensor) -> Tensor:
    """Two texts' vectors u and v `[B, D]` and how they differ: `[u, v, |u - v|, u * v]`, `[B, 4 D]`.

    Conneau et al., "Supervised Learning of Universal Sentence Representations from Natural Language Inference Data",
    EMNLP 2017, https://arxiv.org/abs/1705.02364. A row without a second text has v = 0.
    """
    return torch.cat([first, second, (first - second).abs(), first * second], dim=1)
