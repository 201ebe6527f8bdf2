"""Recurrent layers over tokens, as stages."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from polytask.encoders.encoder import Stage
from polytask.encoders.token_pooling import last_token
from polytask.features import Features, FeatureShape


class RecurrentLayer(Stage):
    """A recurrent layer, over `tokens` with a mask; the padding is at the end of a row.

    Args:
        recurrent: One layer that reads `[B, T, dim]` (`batch_first`).
        dropout: Probability of dropping a feature of the result while training.
    """

    module: nn.RNNBase

    def __init__(self, recurrent: nn.RNNBase, dropout: float) -> None:
        width = recurrent.hidden_size * (2 if recurrent.bidirectional else 1)
        super().__init__(recurrent, FeatureShape("tokens", width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """`[B, T, dim]` to `[B, T, hidden]`, or `[B, T, 2 hidden]` in both directions."""
        mask = features.mask
        assert mask is not None
        # A row without tokens is read as one token of padding, since a sequence cannot be empty.
        lengths = mask.sum(dim=1).clamp(min=1).cpu()
        # Recurrence gathers rounding errors over the whole row, and CPUs have no low-precision kernel for it.
        with torch.autocast(features.values.device.type, enabled=False):
            tokens = features.values.to(next(self.module.parameters()).dtype)
            packed = pack_padded_sequence(tokens, lengths, batch_first=True, enforce_sorted=False)
            values, _ = pad_packed_sequence(self.module(packed)[0], batch_first=True, total_length=mask.shape[1])
        return features._replace(values=self.dropout(values))


class LastStates(Stage):
    """The last state of either direction: `vector`.

    Args:
        hidden: Number of units of each direction.
        bidirectional: Whether there are two.
    """

    def __init__(self, hidden: int, *, bidirectional: bool) -> None:
        super().__init__(nn.Identity(), FeatureShape("vector", 2 * hidden if bidirectional else hidden))
        self.hidden = hidden

    def forward(self, features: Features) -> Features:
        """`[B, T, D]` with a mask `[B, T]` to `[B, D]`."""
        values, mask = features.values, features.mask
        assert mask is not None
        forwards = last_token(values[..., : self.hidden], mask)
        return Features(torch.cat([forwards, values[:, 0, self.hidden :]], dim=1))
