"""From tokens to one vector a text, padding left out."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from polytask.encoders.encoder import Features, FeatureShape, Stage

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

    Args:
        width: Number of features of a token.
        pooling: `mean` or `max` over the tokens, or the `first` or `last` of them.
        norm: Applied to each token before.
        dropout: Probability of dropping a feature of the result while training.
    """

    def __init__(self, width: int, pooling: Pooling, norm: nn.Module | None = None, dropout: float = 0.0) -> None:
        super().__init__(nn.Identity() if norm is None else norm, FeatureShape("vector", width))
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """`[B, T, D]` with a mask `[B, T]` to `[B, D]`."""
        mask = features.mask
        if mask is None:
            mask = features.values.new_ones(features.values.shape[:2]).bool()
        values = self.module(features.values)
        if self.pooling == "mean":
            pooled = masked_mean(values, mask)
        elif self.pooling == "max":
            pooled = masked_max(values, mask)
        else:
            pooled = values[:, 0] if self.pooling == "first" else last_token(values, mask)
        return Features(self.dropout(pooled))
