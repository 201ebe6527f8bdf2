"""FT-Transformer: a table's columns as tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.components import FromData
from polytask.encoders.attention import SelfAttention
from polytask.encoders.columns import require_columns
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.limits import at_least, dropout_rate
from polytask.features import Features, FeatureShape
from polytask.shapes import TabularShape


class FTTransformer(Encoder):
    """Feature tokenizer and Transformer.

    Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021,
    https://arxiv.org/abs/2106.11959. Each column becomes a token (number x: `x W_j + b_j`; category c: `E_j[c] + b_j`),
    with a CLS token before them (stage `embed`); pre-norm Transformer blocks with ReGLU follow (`block1`,
    `block2`...); the CLS token, `relu(norm(x))`, is the result (`pool`). The cost grows with the square of the number
    of columns.

    Args:
        dim: Number of features of a token.
        depth: Number of blocks.
        heads: Number of attention heads; divides `dim`.
        hidden: Number of units of a block's feed-forward part; None means 4/3 of `dim`.
        attention_dropout: Probability of dropping an attention weight while training.
        hidden_dropout: Probability of dropping a unit of the feed-forward part while training.
        residual_dropout: Probability of dropping a value that a block adds, while training.
        shape: The columns.

    Raises:
        UserError: A parameter is out of its limits, or there is no column.
    """

    modality = "tabular"

    def __init__(
        self,
        dim: int = 192,
        depth: int = 3,
        heads: int = 8,
        hidden: int | None = None,
        *,
        attention_dropout: float = 0.2,
        hidden_dropout: float = 0.1,
        residual_dropout: float = 0.0,
        shape: FromData[TabularShape],
    ) -> None:
        at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden)
        dropout_rate(
            attention_dropout=attention_dropout, hidden_dropout=hidden_dropout, residual_dropout=residual_dropout
        )
        stages: dict[str, Stage] = {"embed": FeatureTokenizer(shape, dim)}
        for number in range(1, depth + 1):
            attention = SelfAttention(dim, heads, attention_dropout)
            block = _Block(attention, dim, hidden or dim * 4 // 3, hidden_dropout, residual_dropout)
            if number == 1:
                # The published network leaves out the very first normalisation, and its authors found that it matters.
                block.attention_norm = nn.Identity()
            stages[f"block{number}"] = Stage(block, FeatureShape("tokens", dim))
        stages["pool"] = Stage(_ClassToken(dim), FeatureShape("vector", dim))
        super().__init__(stages)


class FeatureTokenizer(Stage):
    """Columns to tokens, the CLS token first.

    Args:
        shape: The columns.
        dim: Number of features of a token.
    """

    starts: Tensor

    def __init__(self, shape: TabularShape, dim: int) -> None:
        require_columns(shape)
        categories = list(shape.cardinalities)
        # All categories are in one table, so that any number of columns costs one look-up.
        table = nn.Embedding(sum(categories), dim) if categories else nn.Identity()
        super().__init__(table, FeatureShape("tokens", dim))
        starts = torch.tensor([0, *categories], dtype=torch.int64).cumsum(0)[:-1]
        self.register_buffer("starts", starts, persistent=False)
        self.weight = nn.Parameter(torch.empty(shape.numeric, dim)) if shape.numeric else None
        self.bias = nn.Parameter(torch.empty(shape.numeric + len(categories), dim))
        self.class_token = nn.Parameter(torch.empty(1, 1, dim))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """`{"numeric": [B, N], "categorical": int64 [B, C]}` to `[B, 1 + N + C, dim]`."""
        parts = []
        if self.weight is not None:
            parts.append(inputs["numeric"].unsqueeze(2) * self.weight)
        if len(self.starts):
            parts.append(self.module(inputs["categorical"] + self.starts))
        tokens = torch.cat(parts, dim=1) + self.bias
        return Features(torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1))


class _Block(nn.Module):
    def __init__(
        self,
        attention: SelfAttention,
        dim: int,
        hidden: int,
        hidden_dropout: float,
        residual_dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm: nn.Module = nn.LayerNorm(dim)
        self.attention = attention
        self.norm = nn.LayerNorm(dim)
        self.first = nn.Linear(dim, 2 * hidden)
        self.second = nn.Linear(hidden, dim)
        self.hidden_dropout = nn.Dropout(hidden_dropout)
        self.residual_dropout = nn.Dropout(residual_dropout)

    def forward(self, values: Tensor) -> Tensor:
        values = values + self.residual_dropout(self.attention(self.attention_norm(values), None))
        linear, gate = self.first(self.norm(values)).chunk(2, dim=-1)
        return values + self.residual_dropout(self.second(self.hidden_dropout(linear * F.relu(gate))))  # type: ignore[no-any-return]


class _ClassToken(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, values: Tensor) -> Tensor:
        return F.relu(self.norm(values[:, 0]))
