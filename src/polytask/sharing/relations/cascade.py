"""Cascade: a task's head reads other tasks' predictions or features beside its own features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch

from polytask.encoders import Features, FeatureShape
from polytask.errors import UserError, listing
from polytask.sharing.relations.relation import Read, ReadShape, Relation, RelationLayer

Use = Literal["prediction", "features", "both"]


class Cascade(Relation):
    """A head reads other tasks' predictions or features beside its own task's features.

    Hashimoto, Xiong, Tsuruoka and Socher, "A Joint Many-Task Model: Growing a Neural Network for Multiple NLP Tasks",
    EMNLP 2017. The head of task t reads `[f_t ; p_s]`, where `f_t` are its own features and `p_s` is the prediction of
    a task s that it reads: probabilities of classes or labels, standardised numbers. With `use: features` it reads
    `[f_t ; f_s]`, with `both` `[f_t ; f_s ; p_s]`.

    In the paper a task reads label embeddings `sum_j p_s(j) l(j)` and the hidden states of the tasks below. A linear
    head over `p_s` computes just such a sum, with its own weights as the embeddings. The paper's tasks have LSTM layers
    of their own on top of each other; here that is the sharing scheme's part. Its successive regularisation, which
    keeps what an earlier task has learned while a later one is trained, is left out: all tasks are trained together,
    and `detach` keeps a task from changing what it reads.

    For tasks that build on each other: a part of speech before a syntax tree, a diagnosis before the length of stay.
    Where the task has to combine what it reads with its own features (`if left then ... else ...`), give its head a
    hidden layer.

    Args:
        use: What is read: `prediction`, `features`, or `both`.

    Raises:
        UserError: `use` is none of these, or see `Relation`.
    """

    def __init__(self, use: Use = "prediction", **options: Any) -> None:
        super().__init__(**options)
        if use not in get_args(Use):
            raise UserError(f"A cascade cannot use '{use}'. Allowed: {listing(get_args(Use))}.")
        self.use = use

    @property
    def uses_prediction(self) -> bool:
        """See `Relation.uses_prediction`."""
        return self.use != "features"

    def build(self, own: FeatureShape, read: Mapping[str, ReadShape]) -> RelationLayer:
        """See `Relation.build`."""
        width = own.width
        for shape in read.values():
            width += shape.features.width if self.use != "prediction" else 0
            width += shape.outputs if self.use != "features" else 0
        return _Concatenation(FeatureShape("vector", width), self.use)


class _Concatenation(RelationLayer):
    def __init__(self, shape: FeatureShape, use: Use) -> None:
        super().__init__(shape)
        self.use = use

    def forward(self, own: Features, read: Mapping[str, Read]) -> Features:
        parts = [own.values]
        for features, prediction in read.values():
            if self.use != "prediction":
                parts.append(features.values)
            if prediction is not None:
                parts.append(prediction)
        return own._replace(values=torch.cat(parts, dim=1))
