"""Transformer encoder over patches of time series."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from polytask.components import FromData
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.encoders.series_embedding import PositionedPatches
from polytask.encoders.token_pooling import TokenPool
from polytask.encoders.transformer import TransformerBlock, sinusoids
from polytask.shapes import SequenceShape


class SeriesTransformer(Encoder):
    """Transformer encoder over patches of several steps.

    Nie, Nguyen, Sinthong and Kalagnanam, "A Time Series is Worth 64 Words: Long-term Forecasting with Transformers",
    ICLR 2023, https://arxiv.org/abs/2211.14730, but with patches that do not overlap and have all channels, so that
    tasks can depend on several channels together. Stages: `embed` (patches and positions), `block1`, `block2`...,
    `pool`.

    Args:
        dim: Number of features of a patch.
        depth: Number of blocks.
        heads: Number of attention heads; divides `dim`.
        hidden: Number of units of a block's feed-forward part; None means four times `dim`.
        patch: Steps of a patch.
        dropout: Probability of dropping a feature of the patches, an attention weight, a unit of the feed-forward part,
            or a value that a block adds, while training.
        positions: `"learned"`, a vector for each position up to the longest series; or `"sinusoidal"`, fixed waves,
            which need an even `dim`.
        pooling: From patches to a vector: the `"mean"` or `"max"` over them, or the `"last"` one.
        shape: The series.

    Raises:
        UserError: A parameter is out of its limits.
    """

    modality = "sequence"

    def __init__(
        self,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        *,
        patch: int = 8,
        dropout: float = 0.1,
        positions: Literal["learned", "sinusoidal"] = "learned",
        pooling: Literal["mean", "max", "last"] = "mean",
        shape: FromData[SequenceShape],
    ) -> None:
        at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden, patch=patch)
        dropout_rate(dropout=dropout)
        one_of(("learned", "sinusoidal"), positions=positions)
        one_of(("mean", "max", "last"), pooling=pooling)
        places, learned = math.ceil(shape.length / patch), positions == "learned"
        start = torch.randn(places, dim) * dim**-0.5 if learned else sinusoids(places, dim)
        stages: dict[str, Stage] = {
            "embed": PositionedPatches(shape, dim, dropout, patch=patch, positions=start, learned=learned)
        }
        for number in range(1, depth + 1):
            stages[f"block{number}"] = TransformerBlock(dim, heads, hidden or 4 * dim, dropout)
        stages["pool"] = TokenPool(dim, pooling, norm=nn.LayerNorm(dim))
        super().__init__(stages)
