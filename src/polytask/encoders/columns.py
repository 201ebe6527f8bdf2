"""The first stage of encoders that read a table's columns side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polytask.encoders.encoder import Stage
from polytask.encoders.limits import at_least
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.shapes import TabularShape


def require_columns(shape: TabularShape) -> None:
    """Refuse a table that has no column to read.

    Raises:
        UserError: There is neither a numeric nor a categorical column.
    """
    if shape.numeric == 0 and not shape.cardinalities:
        raise UserError("A tabular input needs at least one column, numeric or categorical, but this one has none.")


class ColumnEmbedding(Stage):
    """Numeric columns as they are, beside a learned vector for each categorical column: a `vector`.

    Args:
        shape: The columns.
        embedding: The size of a categorical column's vector; `"auto"` follows the number of its categories n,
            min(600, 1.6 n^0.56), which is fastai's rule.
    """

    def __init__(self, shape: TabularShape, embedding: int | Literal["auto"]) -> None:
        require_columns(shape)
        if embedding != "auto":
            at_least(1, embedding=embedding)
        tables = [nn.Embedding(n, _size(n) if embedding == "auto" else embedding) for n in shape.cardinalities]
        for table in tables:
            # A column's vector has length 1 on average, as much as a standardised number.
            nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)
        width = shape.numeric + sum(table.embedding_dim for table in tables)
        super().__init__(nn.ModuleList(tables), FeatureShape("vector", width))
        self.numeric = shape.numeric

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """`{"numeric": [B, N], "categorical": int64 [B, C]}` to `[B, D]`; a kind without columns may be left out."""
        parts = [inputs["numeric"]] if self.numeric else []
        tables: Any = self.module
        parts += [table(inputs["categorical"][:, column]) for column, table in enumerate(tables)]
        return Features(torch.cat(parts, dim=1))


def _size(categories: int) -> int:
    return min(600, max(1, round(1.6 * math.pow(categories, 0.56))))
