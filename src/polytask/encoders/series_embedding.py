"""The first stage of encoders of time series."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.encoders.encoder import Stage
from polytask.features import Features, FeatureShape
from polytask.shapes import SequenceShape


class SeriesEmbedding(Stage):
    """Steps, or patches of several steps, to vectors by a linear map: `tokens`.

    A patch is a token where any of its steps is real; those of its steps that are not are zeros.

    Args:
        shape: The series.
        dim: Number of features of a token.
        dropout: Probability of dropping a feature while training.
        patch: Steps of a patch; the last one of a row may have fewer.
    """

    def __init__(self, shape: SequenceShape, dim: int, dropout: float, *, patch: int = 1) -> None:
        super().__init__(nn.Linear(patch * shape.channels, dim), FeatureShape("tokens", dim))
        self.patch = patch
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """`{"values": [B, T, C], "mask": bool [B, T]}` to `[B, ceil(T / patch), dim]`."""
        values, mask = inputs["values"], inputs["mask"]
        if self.patch > 1:
            missing = -values.shape[1] % self.patch
            values = F.pad(values.masked_fill(~mask.unsqueeze(2), 0.0), (0, 0, 0, missing))
            rows, steps, _ = values.shape
            values = values.reshape(rows, steps // self.patch, -1)
            mask = F.pad(mask, (0, missing)).view(rows, -1, self.patch).any(dim=2)
        return Features(self.dropout(self.embedded(values)), mask)

    def embedded(self, values: Tensor) -> Tensor:
        """Patches `[B, P, patch * C]` to `[B, P, dim]`."""
        found: Tensor = self.module(values)
        return found


class PositionedPatches(SeriesEmbedding):
    """Patches that know their position.

    Args:
        shape: The series.
        dim: Number of features of a token.
        dropout: Probability of dropping a feature while training.
        patch: Steps of a patch.
        positions: `[P, dim]`: what is added to each patch, up to the longest series'.
        learned: Whether that is learned.
    """

    positions: Tensor

    def __init__(
        self, shape: SequenceShape, dim: int, dropout: float, *, patch: int, positions: Tensor, learned: bool
    ) -> None:
        super().__init__(shape, dim, dropout, patch=patch)
        if learned:
            self.positions = nn.Parameter(positions)
        else:
            self.register_buffer("positions", positions, persistent=False)

    def embedded(self, values: Tensor) -> Tensor:
        """See `SeriesEmbedding.embedded`; padding beyond the longest series has no position."""
        tokens = super().embedded(values)
        positions = self.positions[: tokens.shape[1]]
        return torch.cat([tokens[:, : len(positions)] + positions, tokens[:, len(positions) :]], dim=1)
