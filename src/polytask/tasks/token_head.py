"""From the features of single tokens to the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from polytask.features import Features
from polytask.row_values import RowTargets


class ChosenTokens(NamedTuple):
    """The features of some tokens of B rows.

    Attributes:
        values: `[N, D]`, row by row.
        there: bool `[B, M]`, with N entries that are true: which of a row's M places for tokens are taken.
    """

    values: Tensor
    there: Tensor


class TokenLogits(RowTargets):
    """Logits for some tokens of B rows.

    Args:
        logits: `[N, V]`, row by row.
        there: As in `ChosenTokens`.
    """

    def __init__(self, logits: Tensor, there: Tensor) -> None:
        self.logits, self.there = logits, there

    def __len__(self) -> int:
        return len(self.there)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """See `RowValues.map`."""
        return type(self)(function(self.logits), function(self.there))

    def select(self, rows: Tensor) -> Self:
        """See `RowValues.select`."""
        rows = rows.to(self.there.device)
        numbers = torch.full(self.there.shape, -1, device=rows.device)
        numbers[self.there] = torch.arange(len(self.logits), device=rows.device)
        there = self.there[rows]
        return type(self)(self.logits[numbers[rows][there]], there)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """See `RowTargets.join`."""
        return cls(torch.cat([part.logits for part in parts]), torch.cat([part.there for part in parts]))

    def spread(self, start: int, rows: int) -> Self:
        """See `RowTargets.spread`."""
        there = self.there.new_zeros(rows, self.there.shape[1])
        there[start : start + len(self)] = self.there
        return type(self)(self.logits, there)


class TokenHead(nn.Module):
    """BERT's: `W2 norm(gelu(W1 x + b1)) + b2`.

    Args:
        width: Features of a token.
        vocabulary: The number of tokens.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.decoder = nn.Linear(width, vocabulary)

    def forward(self, tokens: Features | ChosenTokens) -> TokenLogits:
        """The logits of the tokens that were chosen; of features, those of all."""
        if isinstance(tokens, Features):
            there = tokens.values.new_ones(tokens.values.shape[:2], dtype=torch.bool)
            there = there if tokens.mask is None else tokens.mask
            tokens = ChosenTokens(tokens.values[there], there)
        return TokenLogits(self.decoder(self.transform(tokens.values)), tokens.there)
