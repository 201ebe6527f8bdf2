"""A weighted mean of one vector for each modality."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from polytask.encoders import Encoder, Stage
from polytask.encoders.limits import at_least, dropout_rate
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.fusion.fusion import Fusion
from polytask.fusion.modalities import ModalityEncoders
from polytask.fusion.tokens import ModalityTokens


class Attention(Fusion):
    """Gated attention over one vector for each modality that a row has.

    Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    https://arxiv.org/abs/1802.04712. With `h_m` the vector of modality m, normalised and mapped to `dim` features, the
    result is

        h = sum_m a_m h_m,   a_m = softmax_m(w^T (tanh(V h_m) * sigmoid(U h_m)))

    over the modalities that are there. With several `heads`, each has weights `a_m` of its own for its share of the
    features. Stages: `encoders`, `pool`.

    Args:
        dim: Number of features that each modality's vector is mapped to, and of the result.
        hidden: Number of units of V and U.
        heads: Number of heads; divides `dim`.
        dropout: Probability of dropping a feature of the result while training.
        drop: Probability of hiding an input from a row that has several, while training, so that the network learns to
            do without; at least one stays.

    Raises:
        UserError: A parameter is out of its limits.
    """

    def __init__(
        self, dim: int = 256, hidden: int = 64, heads: int = 1, *, dropout: float = 0.0, drop: float = 0.0
    ) -> None:
        super().__init__(drop)
        at_least(1, dim=dim, hidden=hidden, heads=heads)
        dropout_rate(dropout=dropout)
        if dim % heads:
            raise UserError(f"'heads' must divide 'dim', but {heads} does not divide {dim}.")
        self.dim = dim
        self.hidden = hidden
        self.heads = heads
        self.dropout = dropout

    def stages(self, encoders: Mapping[str, Encoder]) -> tuple[ModalityEncoders, dict[str, Stage]]:
        """See `Fusion.stages`."""
        pool = GatedPool(self.dim, self.hidden, self.heads, self.dropout)
        return ModalityTokens(encoders, self.dim, None), {"pool": pool}


class GatedPool(Stage):
    """Tokens to one `vector`: their mean, weighted by gated attention.

    Args:
        dim: Number of features of a token.
        hidden: Number of units of either part of the gate.
        heads: Each weighs its share of the features in its own way.
        dropout: Probability of dropping a feature of the result while training.
    """

    def __init__(self, dim: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__(nn.Linear(dim, 2 * hidden), FeatureShape("vector", dim))
        self.weigh = nn.Linear(hidden, heads, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.heads = heads

    def forward(self, features: Features) -> Features:
        """`[B, M, dim]` with a mask `[B, M]` to `[B, dim]`."""
        values, mask = features.values, features.mask
        content, gate = self.module(values).chunk(2, dim=2)
        scores = self.weigh(torch.tanh(content) * torch.sigmoid(gate))
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(2), float("-inf"))
        weights = scores.softmax(dim=1).unsqueeze(3)
        parts = values.view(*values.shape[:2], self.heads, -1)
        return Features(self.dropout((weights * parts).sum(dim=1).flatten(1)))
