"""The first stage of text encoders."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from polytask.encoders.encoder import Features, FeatureShape, Stage
from polytask.errors import UserError
from polytask.shapes import TextShape


class TokenEmbedding(Stage):
    """Token ids to learned vectors: `tokens`.

    Args:
        shape: The texts.
        dim: Number of features of a token.
        dropout: Probability of dropping a feature while training.

    Raises:
        UserError: The tokens come with weights.
    """

    def __init__(self, shape: TextShape, dim: int, dropout: float) -> None:
        refuse_weights(shape)
        super().__init__(nn.Embedding(shape.vocabulary, dim), FeatureShape("tokens", dim))
        nn.init.normal_(self.module.weight, std=dim**-0.5)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """`{"ids": int64 [B, T], "mask": bool [B, T]}` to `[B, T, dim]`."""
        return Features(self.dropout(self.module(inputs["ids"])), inputs["mask"])


def refuse_weights(shape: TextShape) -> None:
    """Refuse texts whose tokens are weighted: such tokens are in no order, which all encoders but `bag` read them in.

    Raises:
        UserError: They are.
    """
    if shape.weightings:
        raise UserError(
            "The text input weighs its tokens (weights), which of all encoders only 'bag' reads. Use that encoder, or "
            "take weights out of the input."
        )
