"""The first stage of text encoders."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from polytask.encoders.encoder import Stage
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.shapes import TextShape


class TokenEmbedding(Stage):
    """Token ids to learned vectors: `tokens`.

    The vectors of a token with several ids are added, and that of the text that it is of, where a row has several.

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
        self.segments = nn.Embedding(shape.segments, dim) if shape.segments > 1 else None
        if self.segments is not None:
            nn.init.normal_(self.segments.weight, std=dim**-0.5)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """`{"ids": int64 [B, T], "mask": bool [B, T]}` to `[B, T, dim]`."""
        return marked(Features(self.dropout(self.embedded(inputs)), inputs["mask"]), inputs)

    def embedded(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The tokens' vectors, `[B, T, dim]`."""
        values = added_parts(self.module(inputs["ids"]))
        return values if self.segments is None else values + self.segments(inputs["segments"])


def added_parts(embedded: Tensor) -> Tensor:
    """`[B, T, D]` as it is; of `[B, T, parts, D]` the sum over the parts, of the size of one of them."""
    return embedded if embedded.ndim == 3 else embedded.sum(dim=2) * embedded.shape[2] ** -0.5


def marked(features: Features, inputs: Mapping[str, Tensor]) -> Features:
    """The tokens with what the input says of them beside their ids."""
    return features._replace(words=inputs.get("words"), segments=inputs.get("segments"))


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
