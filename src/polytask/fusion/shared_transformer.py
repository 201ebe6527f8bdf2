"""One transformer over the tokens of all modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

from polytask.encoders import Encoder, Stage
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.encoders.token_pooling import TokenPool
from polytask.encoders.transformer import TransformerBlock
from polytask.fusion.fusion import Fusion
from polytask.fusion.modalities import ModalityEncoders
from polytask.fusion.tokens import ModalityTokens


class SharedTransformer(Fusion):
    """One transformer over the tokens of the modalities that a row has: a trunk that all modalities share.

    Likhosherstov et al., "PolyViT: Co-training Vision Transformers on Images, Videos and Audio", TMLR 2023,
    https://arxiv.org/abs/2111.12993: each modality has a tokeniser of its own, and all have the transformer. An encoder
    gives its features before its own pooling: words, the cells of a map, the nodes of a graph, or else its vector as
    one token. They are normalised, mapped to `dim` features and added to a learned vector of their modality; the cells
    of a map also to sines and cosines of their row and column. Rows of one modality and rows of several go through the
    same blocks, which are those of the encoder `transformer`. Stages: `encoders`, `block1`, `block2`..., `pool`.

    Args:
        dim: Number of features of a token.
        depth: Number of blocks.
        heads: Number of attention heads; divides `dim`.
        hidden: Number of units of a block's feed-forward part; None means four times `dim`.
        dropout: Probability of dropping an attention weight, a unit of the feed-forward part, or a value that a block
            adds, while training.
        grid: Maps that are larger are averaged to `grid` x `grid` cells, since the cost grows with the square of the
            number of tokens.
        pooling: From tokens to a vector: `"mean"` over all of a row's tokens, or `"cls"`, a token of its own.
        drop: Probability of hiding an input from a row that has several, while training, so that the network learns to
            do without; at least one stays.

    Raises:
        UserError: A parameter is out of its limits.
    """

    def __init__(
        self,
        dim: int = 128,
        depth: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        *,
        dropout: float = 0.1,
        grid: int = 8,
        pooling: Literal["mean", "cls"] = "mean",
        drop: float = 0.0,
    ) -> None:
        super().__init__(drop)
        at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden, grid=grid)
        dropout_rate(dropout=dropout)
        one_of(("mean", "cls"), pooling=pooling)
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.hidden = hidden or 4 * dim
        self.dropout = dropout
        self.grid = grid
        self.pooling = pooling

    def stages(self, encoders: Mapping[str, Encoder]) -> tuple[ModalityEncoders, dict[str, Stage]]:
        """See `Fusion.stages`."""
        own_token = self.pooling == "cls"
        first = ModalityTokens(encoders, self.dim, self.grid, class_token=own_token)
        behind: dict[str, Stage] = {
            f"block{number}": TransformerBlock(self.dim, self.heads, self.hidden, self.dropout)
            for number in range(1, self.depth + 1)
        }
        behind["pool"] = TokenPool(self.dim, "first" if own_token else "mean", norm=nn.LayerNorm(self.dim))
        return first, behind
