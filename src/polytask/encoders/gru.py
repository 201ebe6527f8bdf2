"""Recurrent network over tokens."""

from __future__ import annotations

from typing import Literal

from torch import nn

from polytask.components import FromData
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.encoders.recurrent import LastStates, RecurrentLayer
from polytask.encoders.token_embedding import TokenEmbedding
from polytask.encoders.token_pooling import TokenPool
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
            direction. Of a pair of texts, all but `"last"` compare the two: `[u, v, |u - v|, u * v]` of either's.
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
            stages[f"layer{number}"] = BiGRULayer(dim if number == 1 else 2 * hidden, hidden, dropout)
        if pooling == "last":
            stages["pool"] = LastStates(hidden, bidirectional=True)
        else:
            stages["pool"] = TokenPool(2 * hidden, pooling, segments=shape.segments)
        super().__init__(stages)


class BiGRULayer(RecurrentLayer):
    """A layer of gated recurrent units in both directions, over `tokens` with a mask.

    Args:
        dim: Number of features of a token.
        hidden: Number of units of each direction.
        dropout: Probability of dropping a feature of the result while training.
    """

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.GRU(dim, hidden, batch_first=True, bidirectional=True), dropout)
