"""Convolutions over tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from polytask.components import FromData
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.initialization import he_init
from polytask.encoders.limits import at_least, dropout_rate
from polytask.encoders.token_embedding import TokenEmbedding
from polytask.encoders.token_pooling import TokenPool
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.shapes import TextShape


class TextCNN(Encoder):
    """Convolutions of several widths over the words, and their maximum over the text.

    Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014, https://arxiv.org/abs/1408.5882.
    Stages: `embed`, `conv` (one window centred on each token, zeros beyond the ends of the text, ReLU), `pool`.

    Args:
        dim: Number of features of a token's embedding.
        filters: Number of filters of each window width; the result has as many features for each width.
        widths: The windows' widths in tokens.
        dropout: Probability of dropping a feature of the result while training.
        shape: The texts.

    Raises:
        UserError: A parameter is out of its limits.
    """

    modality = "text"

    def __init__(
        self,
        dim: int = 128,
        filters: int = 100,
        widths: Sequence[int] = (3, 4, 5),
        dropout: float = 0.5,
        *,
        shape: FromData[TextShape],
    ) -> None:
        at_least(1, dim=dim, filters=filters)
        dropout_rate(dropout=dropout)
        if not widths:
            raise UserError("'widths' must name at least one width of the windows, such as [3, 4, 5], but it is empty.")
        for width in widths:
            at_least(1, widths=width)
        total = filters * len(widths)
        stages = {
            "embed": TokenEmbedding(shape, dim, dropout=0.0),
            "conv": _Windows(dim, filters, widths),
            "pool": TokenPool(total, "max", dropout=dropout, segments=shape.segments),
        }
        super().__init__(stages)


class _Windows(Stage):
    module: nn.ModuleList

    def __init__(self, dim: int, filters: int, widths: Sequence[int]) -> None:
        convolutions = nn.ModuleList(nn.Conv1d(dim, filters, width) for width in widths)
        he_init(convolutions)
        super().__init__(convolutions, FeatureShape("tokens", filters * len(widths)))
        self.widths = tuple(widths)

    def forward(self, features: Features) -> Features:
        values, mask = features.values, features.mask
        assert mask is not None
        channels = values.masked_fill(~mask.unsqueeze(2), 0.0).transpose(1, 2)
        found = [
            convolution(F.pad(channels, ((width - 1) // 2, width // 2)))
            for width, convolution in zip(self.widths, self.module, strict=True)
        ]
        return features._replace(values=F.relu(torch.cat(found, dim=1)).transpose(1, 2))
