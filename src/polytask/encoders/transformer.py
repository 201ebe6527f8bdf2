"""Transformer encoder over tokens, trained from scratch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.components import FromData
from polytask.encoders.attention import SelfAttention
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.encoders.token_embedding import TokenEmbedding, marked
from polytask.encoders.token_pooling import TokenPool
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.shapes import TextShape


class Transformer(Encoder):
    """Transformer encoder.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, https://arxiv.org/abs/1706.03762, with the normalisation
    before each part (Xiong et al., ICML 2020, https://arxiv.org/abs/2002.04745) and GELU. Stages: `embed` (tokens and
    positions), `block1`, `block2`..., `pool`.

    Args:
        dim: Number of features of a token.
        depth: Number of blocks.
        heads: Number of attention heads; divides `dim`.
        hidden: Number of units of a block's feed-forward part; None means four times `dim`.
        dropout: Probability of dropping a feature of the embedding, an attention weight, a unit of the feed-forward
            part, or a value that a block adds, while training.
        positions: `"learned"`, a vector for each position up to the longest text; or `"sinusoidal"`, fixed waves,
            which know any length and need an even `dim`.
        pooling: From tokens to a vector: `"mean"` over the text, or `"cls"`, a token of its own before the text. Of a
            pair of texts, `"mean"` compares the two: `[u, v, |u - v|, u * v]` of either's mean.
        shape: The texts.

    Raises:
        UserError: A parameter is out of its limits.
    """

    modality = "text"

    def __init__(
        self,
        dim: int = 128,
        depth: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        *,
        dropout: float = 0.1,
        positions: Literal["learned", "sinusoidal"] = "learned",
        pooling: Literal["mean", "cls"] = "mean",
        shape: FromData[TextShape],
    ) -> None:
        at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden)
        dropout_rate(dropout=dropout)
        one_of(("learned", "sinusoidal"), positions=positions)
        one_of(("mean", "cls"), pooling=pooling)
        embed = PositionedEmbedding(shape, dim, dropout, positions, class_token=pooling == "cls")
        stages: dict[str, Stage] = {"embed": embed}
        for number in range(1, depth + 1):
            stages[f"block{number}"] = TransformerBlock(dim, heads, hidden or 4 * dim, dropout)
        stages["pool"] = TokenPool(
            dim, "first" if pooling == "cls" else "mean", norm=nn.LayerNorm(dim), segments=shape.segments
        )
        super().__init__(stages)


class PositionedEmbedding(TokenEmbedding):
    """Token ids to vectors that know their position.

    Args:
        shape: The texts.
        dim: Number of features of a token.
        dropout: Probability of dropping a feature while training.
        positions: `learned` or `sinusoidal`.
        class_token: Whether a learned token stands before the text.
    """

    positions: Tensor

    def __init__(self, shape: TextShape, dim: int, dropout: float, positions: str, class_token: bool) -> None:
        super().__init__(shape, dim, dropout)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5) if class_token else None
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(shape.length, dim) * dim**-0.5)
        else:
            self.register_buffer("positions", sinusoids(shape.length, dim), persistent=False)
        self.fixed = positions == "sinusoidal"

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """`{"ids": int64 [B, T], "mask": bool [B, T]}` to `[B, T, dim]`, or `[B, 1 + T, dim]` with a class token.

        Raises:
            UserError: The texts are longer than the learned positions.
        """
        mask = inputs["mask"]
        rows, length = mask.shape
        positions = self.positions
        if length > len(positions):
            if not self.fixed:
                raise UserError(
                    f"A text of {length} tokens is longer than the {len(positions)} that this encoder has positions "
                    "for. Cut the texts to that length, or use positions: sinusoidal."
                )
            positions = sinusoids(length, positions.shape[1]).to(positions)
        values = self.embedded(inputs) + positions[:length]
        found = marked(Features(values, mask), inputs)
        if self.class_token is not None:
            values = torch.cat([self.class_token.expand(rows, -1, -1), values], dim=1)
            mask = torch.cat([mask.new_ones(rows, 1), mask], dim=1)
            # It is part of no word, and belongs to the first text.
            words, segments = found.words, found.segments
            found = found._replace(
                words=None if words is None else F.pad(words, (1, 0), value=-1),
                segments=None if segments is None else F.pad(segments, (1, 0)),
            )
        return found._replace(values=self.dropout(values), mask=mask)


def sinusoids(length: int, dim: int) -> Tensor:
    """Sines and cosines of geometrically spaced wavelengths, `[length, dim]`, each row of length 1.

    Raises:
        UserError: `dim` is odd.
    """
    if dim % 2:
        raise UserError(f"positions: sinusoidal needs an even 'dim', but {dim} was given.")
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    angles = torch.arange(length).unsqueeze(1) * rates
    # Rows of length 1, as the token vectors have, so that neither drowns the other.
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1) * math.sqrt(2 / dim)


class TransformerBlock(Stage):
    """Tokens to tokens: self-attention, then a feed-forward part, each added to what it reads normalised.

    Args:
        dim: Number of features of a token.
        heads: Number of attention heads; divides `dim`.
        hidden: Number of units of the feed-forward part.
        dropout: Probability of dropping an attention weight, a unit, or a value that is added, while training.
    """

    module: SelfAttention

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(SelfAttention(dim, heads, dropout), FeatureShape("tokens", dim))
        self.attention_norm = nn.LayerNorm(dim)
        self.norm = nn.LayerNorm(dim)
        self.first = nn.Linear(dim, hidden)
        self.second = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """`[B, T, dim]` to `[B, T, dim]`."""
        values, mask = features.values, features.mask
        values = values + self.dropout(self.module(self.attention_norm(values), mask))
        inner = self.dropout(F.gelu(self.first(self.norm(values))))
        return features._replace(values=values + self.dropout(self.second(inner)))
