"""Learned queries that look at the tokens of all modalities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import Encoder, Stage
from polytask.encoders.limits import at_least, dropout_rate
from polytask.encoders.token_pooling import TokenPool
from polytask.encoders.transformer import TransformerBlock
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.fusion.fusion import Fusion
from polytask.fusion.modalities import ModalityEncoders
from polytask.fusion.tokens import ModalityTokens


class Perceiver(Fusion):
    """A few learned queries attend to the tokens of all modalities that a row has, and then to each other.

    Jaegle et al., "Perceiver: General Perception with Iterative Attention", ICML 2021,
    https://arxiv.org/abs/2103.03206, with one cross-attention, as in Perceiver IO (ICLR 2022,
    https://arxiv.org/abs/2107.14795). With Z the `latents` and X the tokens, made as for `shared_transformer`:

        Z <- Z + Attention(norm(Z), norm(X));   Z <- Z + MLP(norm(Z))

    then blocks of self-attention over Z follow, and the mean. The cost grows with the number of tokens, not with its
    square: for large maps and long texts. Stages: `encoders`, `cross`, `block1`, `block2`..., `pool`.

    Args:
        dim: Number of features of a token.
        latents: Number of queries.
        depth: Number of blocks of self-attention.
        heads: Number of attention heads; divides `dim`.
        hidden: Number of units of a feed-forward part; None means four times `dim`.
        dropout: Probability of dropping an attention weight, a unit of a feed-forward part, or a value that a block
            adds, while training.
        grid: Maps that are larger are averaged to `grid` x `grid` cells.
        drop: Probability of hiding an input from a row that has several, while training, so that the network learns to
            do without; at least one stays.

    Raises:
        UserError: A parameter is out of its limits.
    """

    def __init__(
        self,
        dim: int = 128,
        latents: int = 16,
        depth: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        *,
        dropout: float = 0.1,
        grid: int = 16,
        drop: float = 0.0,
    ) -> None:
        super().__init__(drop)
        at_least(1, dim=dim, latents=latents, heads=heads, hidden=hidden, grid=grid)
        at_least(0, depth=depth)
        dropout_rate(dropout=dropout)
        self.dim = dim
        self.latents = latents
        self.depth = depth
        self.heads = heads
        self.hidden = hidden or 4 * dim
        self.dropout = dropout
        self.grid = grid

    def stages(self, encoders: Mapping[str, Encoder]) -> tuple[ModalityEncoders, dict[str, Stage]]:
        """See `Fusion.stages`."""
        behind: dict[str, Stage] = {
            "cross": Latents(self.dim, self.latents, self.heads, self.hidden, self.dropout),
            **{
                f"block{number}": TransformerBlock(self.dim, self.heads, self.hidden, self.dropout)
                for number in range(1, self.depth + 1)
            },
            "pool": TokenPool(self.dim, "mean", norm=nn.LayerNorm(self.dim)),
        }
        return ModalityTokens(encoders, self.dim, self.grid), behind


class CrossAttention(nn.Module):
    """Multi-head attention of queries to tokens (Vaswani et al., "Attention Is All You Need", NeurIPS 2017).

    Args:
        dim: Number of features of a token.
        heads: Number of attention heads; divides `dim`.
        dropout: Probability of dropping an attention weight while training.

    Raises:
        UserError: `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"'heads' must divide 'dim', but {heads} does not divide {dim}.")
        self.heads = heads
        self.dropout = dropout
        self.ask = nn.Linear(dim, dim)
        self.project = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        for linear in (self.ask, self.project, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """`[B, L, dim]` and `[B, T, dim]` to `[B, L, dim]`; tokens whose mask `[B, T]` is false are left out."""
        asked = self.ask(queries).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.project(values).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            asked,
            key,
            value,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Latents(Stage):
    """Tokens to as many tokens as there are learned queries, which attend to them.

    Args:
        dim: Number of features of a token.
        count: Number of queries.
        heads: Number of attention heads.
        hidden: Number of units of the feed-forward part.
        dropout: See `Perceiver`.
    """

    module: CrossAttention

    def __init__(self, dim: int, count: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(CrossAttention(dim, heads, dropout), FeatureShape("tokens", dim))
        self.latents = nn.Parameter(torch.randn(1, count, dim) * dim**-0.5)
        self.ask_norm = nn.LayerNorm(dim)
        self.token_norm = nn.LayerNorm(dim)
        self.norm = nn.LayerNorm(dim)
        self.first = nn.Linear(dim, hidden)
        self.second = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """`[B, T, dim]` to `[B, latents, dim]`."""
        tokens = self.token_norm(features.values)
        latents = self.latents.expand(len(tokens), -1, -1)
        values = latents + self.dropout(self.module(self.ask_norm(latents), tokens, features.mask))
        inner = self.dropout(F.gelu(self.first(self.norm(values))))
        return Features(values + self.dropout(self.second(inner)))
