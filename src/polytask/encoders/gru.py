"""Recurrent network over tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from polytask.components import FromData
from polytask.encoders.encoder import Encoder, Features, FeatureShape, Stage
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.encoders.token_embedding import TokenEmbedding
from polytask.encoders.token_pooling import TokenPool, last_token
from polytask.shapes import TextShape


class BiGRU(Encoder):
    """Bidirectional gated recurrent units.

    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014,
    https://arxiv.org/abs/1406.1078; both directions as in Schuster and Paliwal, "Bidirectional Recurrent Neural
    Networks", 1997; the maximum over time as in Conneau et al., EMNLP 2017, https://arxiv.org/abs/1705.02364.
    Stages: `embed`, `layer1`, `layer2`..., `pool`. Texts have their padding at the end.

    Args:
        dim: Number of features of a token's embedding.
        hidden: Number of units of each direction; the result has twice as many features.
        depth: Number of layers.
        dropout: Probability of dropping a feature after the embedding and after each layer, while training.
        pooling: From tokens to a vector: `"max"` or `"mean"` over the text, or `"last"`, the last state of either
            direction.
        shape: The texts.

    Raises:
        UserError: A parameter is out of its limits.
    """

    modality = "text"

    def __init__(
        self,
        dim: int = 128,
        hidden: int = 128,
        depth: int = 1,
        dropout: float = 0.1,
        pooling: Literal["max", "mean", "last"] = "max",
        *,
        shape: FromData[TextShape],
    ) -> None:
        at_least(1, dim=dim, hidden=hidden, depth=depth)
        dropout_rate(dropout=dropout)
        one_of(("max", "mean", "last"), pooling=pooling)
        stages: dict[str, Stage] = {"embed": TokenEmbedding(shape, dim, dropout)}
        for number in range(1, depth + 1):
            stages[f"layer{number}"] = _Layer(dim if number == 1 else 2 * hidden, hidden, dropout)
        stages["pool"] = _LastStates(hidden) if pooling == "last" else TokenPool(2 * hidden, pooling)
        super().__init__(stages)


class _Layer(Stage):
    module: nn.GRU

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        recurrent = nn.GRU(dim, hidden, batch_first=True, bidirectional=True)
        super().__init__(recurrent, FeatureShape("tokens", 2 * hidden))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        mask = features.mask
        assert mask is not None
        # A text without tokens is read as one token of padding, since a sequence cannot be empty.
        lengths = mask.sum(dim=1).clamp(min=1).cpu()
        # Recurrence gathers rounding errors over the whole text, and CPUs have no low-precision kernel for it.
        with torch.autocast(features.values.device.type, enabled=False):
            tokens = features.values.to(next(self.module.parameters()).dtype)
            packed = pack_padded_sequence(tokens, lengths, batch_first=True, enforce_sorted=False)
            values, _ = pad_packed_sequence(self.module(packed)[0], batch_first=True, total_length=mask.shape[1])
        return Features(self.dropout(values), mask)


class _LastStates(Stage):
    def __init__(self, hidden: int) -> None:
        super().__init__(nn.Identity(), FeatureShape("vector", 2 * hidden))
        self.hidden = hidden

    def forward(self, features: Features) -> Features:
        values, mask = features.values, features.mask
        assert mask is not None
        forwards = last_token(values[..., : self.hidden], mask)
        return Features(torch.cat([forwards, values[:, 0, self.hidden :]], dim=1))
