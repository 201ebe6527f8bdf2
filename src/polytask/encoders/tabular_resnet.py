"""ResNet over a table's columns."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from polytask.components import FromData
from polytask.encoders.batch_norm import BatchNorm1d
from polytask.encoders.columns import ColumnEmbedding
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.initialization import he_init
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.features import FeatureShape
from polytask.shapes import TabularShape


class TabularResNet(Encoder):
    """Residual network for tables.

    Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021,
    https://arxiv.org/abs/2106.11959. Columns side by side (stage `embed`), a linear map to `width` (`project`), blocks
    `x + dropout(W2 dropout(relu(W1 norm(x))))` (`block1`, `block2`...), and `relu(norm(x))` (`pool`).

    Args:
        width: Number of features between the blocks.
        depth: Number of blocks.
        hidden: Number of units inside a block; None means twice the width.
        hidden_dropout: Probability of dropping a unit inside a block while training.
        residual_dropout: Probability of dropping an output of a block while training, before it is added.
        normalization: `"batch"` as published, or `"layer"`, which treats each row by itself.
        embedding: Size of a categorical column's vector; `"auto"` grows with the column's number of categories n:
            min(600, 1.6 n^0.56).
        shape: The columns.

    Raises:
        UserError: A parameter is out of its limits, or there is no column.
    """

    modality = "tabular"

    def __init__(
        self,
        width: int = 192,
        depth: int = 3,
        hidden: int | None = None,
        *,
        hidden_dropout: float = 0.2,
        residual_dropout: float = 0.0,
        normalization: Literal["batch", "layer"] = "batch",
        embedding: int | Literal["auto"] = "auto",
        shape: FromData[TabularShape],
    ) -> None:
        at_least(1, width=width, depth=depth, hidden=hidden)
        dropout_rate(hidden_dropout=hidden_dropout, residual_dropout=residual_dropout)
        one_of(("batch", "layer"), normalization=normalization)
        norm = BatchNorm1d if normalization == "batch" else nn.LayerNorm
        vector = FeatureShape("vector", width)
        embed = ColumnEmbedding(shape, embedding)
        stages: dict[str, Stage] = {"embed": embed, "project": Stage(nn.Linear(embed.shape.width, width), vector)}
        for number in range(1, depth + 1):
            block = _Block(norm(width), width, hidden or 2 * width, hidden_dropout, residual_dropout)
            stages[f"block{number}"] = Stage(block, vector)
        stages["pool"] = Stage(nn.Sequential(norm(width), nn.ReLU()), vector)
        super().__init__(stages)


class _Block(nn.Module):
    def __init__(
        self, norm: nn.Module, width: int, hidden: int, hidden_dropout: float, residual_dropout: float
    ) -> None:
        super().__init__()
        self.norm = norm
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, width)
        self.hidden_dropout = nn.Dropout(hidden_dropout)
        self.residual_dropout = nn.Dropout(residual_dropout)
        he_init(self)

    def forward(self, values: Tensor) -> Tensor:
        inner = self.hidden_dropout(F.relu(self.first(self.norm(values))))
        return values + self.residual_dropout(self.second(inner))  # type: ignore[no-any-return]
