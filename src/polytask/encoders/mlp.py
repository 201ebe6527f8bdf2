"""Multi-layer perceptron over a table's columns."""

from __future__ import annotations

from typing import Literal

from torch import nn

from polytask.components import FromData
from polytask.encoders.columns import ColumnEmbedding
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.initialization import he_init
from polytask.encoders.limits import at_least, dropout_rate
from polytask.features import FeatureShape
from polytask.shapes import TabularShape


class MLP(Encoder):
    """Multi-layer perceptron with entity embeddings.

    Guo and Berkhahn, "Entity Embeddings of Categorical Variables", 2016, https://arxiv.org/abs/1604.06737. Categorical
    columns become learned vectors, which stand beside the numeric columns (stage `embed`); then layers
    `x -> dropout(relu(W x + b))` follow (stages `layer1`, `layer2`...).

    Args:
        width: Number of units of each layer.
        depth: Number of layers.
        dropout: Probability of dropping a unit's output while training.
        embedding: Size of a categorical column's vector; `"auto"` grows with the column's number of categories n:
            min(600, 1.6 n^0.56).
        shape: The columns.

    Raises:
        UserError: A parameter is out of its limits, or there is no column.
    """

    modality = "tabular"

    def __init__(
        self,
        width: int = 256,
        depth: int = 3,
        dropout: float = 0.0,
        embedding: int | Literal["auto"] = "auto",
        *,
        shape: FromData[TabularShape],
    ) -> None:
        at_least(1, width=width, depth=depth)
        dropout_rate(dropout=dropout)
        embed = ColumnEmbedding(shape, embedding)
        stages: dict[str, Stage] = {"embed": embed}
        size = embed.shape.width
        for number in range(1, depth + 1):
            layer = nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout))
            he_init(layer)
            stages[f"layer{number}"] = Stage(layer, FeatureShape("vector", width))
            size = width
        super().__init__(stages)
