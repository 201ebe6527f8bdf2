"""Bag of embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from polytask.components import FromData
from polytask.encoders.encoder import Encoder, Features, FeatureShape, Stage
from polytask.encoders.initialization import he_init
from polytask.encoders.limits import at_least, dropout_rate
from polytask.encoders.token_embedding import TokenEmbedding
from polytask.encoders.token_pooling import masked_mean
from polytask.shapes import TextShape


class Bag(Encoder):
    """Mean of the embeddings of a text's tokens, as in fastText: the fastest text encoder, and a strong baseline.

    Joulin et al., "Bag of Tricks for Efficient Text Classification", EACL 2017, https://arxiv.org/abs/1607.01759.
    Word order is seen only as far as the ids stand for n-grams of words, which is up to the input.

    Args:
        dim: Number of features of a token.
        hidden: Number of units of a fully connected layer after the mean (stage `hidden`); None: no such layer, as
            published.
        dropout: Probability of dropping a feature of the result while training.
        shape: The texts.

    Raises:
        UserError: A parameter is out of its limits.
    """

    modality = "text"

    def __init__(
        self, dim: int = 100, hidden: int | None = None, dropout: float = 0.0, *, shape: FromData[TextShape]
    ) -> None:
        at_least(1, dim=dim, hidden=hidden)
        dropout_rate(dropout=dropout)
        stages: dict[str, Stage] = {"embed": _BagStage(shape, dim, dropout if hidden is None else 0.0)}
        if hidden is not None:
            layer = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout))
            he_init(layer)
            stages["hidden"] = Stage(layer, FeatureShape("vector", hidden))
        super().__init__(stages)


class _BagStage(TokenEmbedding):
    def __init__(self, shape: TextShape, dim: int, dropout: float) -> None:
        super().__init__(shape, dim, dropout)
        self.shape = FeatureShape("vector", dim)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.dropout(masked_mean(self.module(inputs["ids"]), inputs["mask"])))
