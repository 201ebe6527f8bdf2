"""Bag of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.components import FromData
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.initialization import he_init
from polytask.encoders.limits import at_least, dropout_rate
from polytask.encoders.token_embedding import added_parts
from polytask.encoders.token_pooling import COMPARED, compared, masked_mean
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.shapes import TextShape


class Bag(Encoder):
    """Mean of the embeddings of a text's tokens, as in fastText: the fastest text encoder, and a strong baseline.

    Joulin et al., "Bag of Tricks for Efficient Text Classification", EACL 2017, https://arxiv.org/abs/1607.01759.
    Word order is seen only as far as the ids stand for n-grams of words, which is up to the input. Of a pair of texts,
    the means u and v of either are compared: `[u, v, |u - v|, u * v]`.

    Where the input weighs the tokens (its `weights`), it is a sum: with M weightings w_1...w_M, each of length 1 over a
    text, and as many tables E_1...E_M of embeddings, a text becomes `sum_m sum_j w_m(j) E_m(j)`. With small embeddings
    at the start (`std`) and linear heads, this is a linear classifier on weighted n-grams, of a rank of at most `dim`
    over all tasks, and as accurate as linear classifiers are on long texts.

    Args:
        dim: Number of features of a token.
        hidden: Number of units of a fully connected layer after the mean or sum (stage `hidden`); None: no such layer,
            as published.
        dropout: Probability of dropping a feature of the result while training.
        std: Standard deviation of the embeddings at the start; None: `dim ** -0.5`.
        shape: The texts.

    Raises:
        UserError: A parameter is out of its limits.
    """

    modality = "text"

    def __init__(
        self,
        dim: int = 100,
        hidden: int | None = None,
        dropout: float = 0.0,
        std: float | None = None,
        *,
        shape: FromData[TextShape],
    ) -> None:
        at_least(1, dim=dim, hidden=hidden)
        dropout_rate(dropout=dropout)
        if std is not None and not std > 0:
            raise UserError(f"'std' must be above 0, but {std} was given.")
        stage = _MeanBag if shape.weightings == 0 else _WeightedBag
        stages: dict[str, Stage] = {"embed": stage(shape, dim, std or dim**-0.5, dropout if hidden is None else 0.0)}
        if hidden is not None:
            width = stages["embed"].shape.width
            layer = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))
            he_init(layer)
            stages["hidden"] = Stage(layer, FeatureShape("vector", hidden))
        super().__init__(stages)


class _MeanBag(Stage):
    def __init__(self, shape: TextShape, dim: int, std: float, dropout: float) -> None:
        width = COMPARED * dim if shape.segments > 1 else dim
        super().__init__(_table(shape, dim, std), FeatureShape("vector", width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        values, mask, texts = added_parts(self.module(inputs["ids"])), inputs["mask"], inputs.get("segments")
        if texts is None:
            return Features(self.dropout(masked_mean(values, mask)))
        return Features(self.dropout(compared(*(masked_mean(values, mask & (texts == number)) for number in (0, 1)))))


class _WeightedBag(Stage):
    module: nn.ModuleList

    def __init__(self, shape: TextShape, dim: int, std: float, dropout: float) -> None:
        tables = nn.ModuleList(_table(shape, dim, std) for _ in range(shape.weightings))
        super().__init__(tables, FeatureShape("vector", dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        mask = inputs["mask"]
        # Without the padding: one long text makes most of a batch padding, and it would be looked up all the same.
        ids, weights = inputs["ids"][mask], inputs["weights"][mask]
        lengths = mask.sum(dim=1)
        starts = lengths.cumsum(0) - lengths
        total = torch.stack(
            [
                F.embedding_bag(ids, cast("Tensor", table.weight), starts, mode="sum", per_sample_weights=weight)
                for table, weight in zip(self.module, weights.T.contiguous(), strict=True)
            ]
        ).sum(dim=0)
        return Features(self.dropout(total))


def _table(shape: TextShape, dim: int, std: float) -> nn.Embedding:
    table = nn.Embedding(shape.vocabulary, dim)
    nn.init.normal_(table.weight, std=std)
    return table
