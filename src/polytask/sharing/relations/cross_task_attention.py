"""Cross-task attention: a task's features attend over other tasks' features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polytask.encoders import Features, FeatureShape
from polytask.errors import UserError
from polytask.modules import NamedModules
from polytask.sharing.relations.relation import Read, ReadShape, Relation, RelationLayer
from polytask.sharing.sharing import LearnedTable

NO_TASK = "(no task)"


class CrossTaskAttention(Relation):
    """A task's features attend over the features of other tasks.

    After Lopes, Vu and de Charette, "Cross-task Attention Mechanism for Dense Multi-task Learning", WACV 2023, for one
    vector a row. The query comes from the task's own features `f`, keys and values from those of the S tasks that it
    reads, each with weights of its own:

        a = softmax([(W_q f) . (W_k,s f_s) / sqrt(d) for each s] + [0])
        result = f + W_o sum_s a_s W_v,s f_s

    with `d` features in a head. `W_o` starts at 0, so that the network starts as it would be without the relation (as
    the paper's channel weights do). Where the paper attends over the places of an image, a row has only one place here,
    and the softmax runs over the tasks. The 0 behind the scores belongs to a key and a value of 0, as in
    `torch.nn.MultiheadAttention(add_zero_attn=True)`: a row may take nothing from anyone, and one task alone has a
    weight to learn too. The paper's self-attention over the source and its fusing convolutions are left out.

    For tasks that help each other on some rows and not on others; the mean weights are reported.

    Args:
        dim: Number of features of the queries, keys and values; None: as many as the task's own features.
        heads: Number of attention heads; divides `dim`.

    Raises:
        UserError: `dim` or `heads` are not positive, or do not go together; or see `Relation`.
    """

    def __init__(self, dim: int | None = None, heads: int = 1, **options: Any) -> None:
        super().__init__(**options)
        if dim is not None and dim < 1:
            raise UserError(f"dim is {dim}, but must be at least 1.")
        if heads < 1:
            raise UserError(f"heads is {heads}, but must be at least 1.")
        if dim is not None and dim % heads:
            raise UserError(f"dim is {dim}, but must be a multiple of heads, {heads}.")
        self.dim = dim
        self.heads = heads

    def build(self, own: FeatureShape, read: Mapping[str, ReadShape]) -> RelationLayer:
        """See `Relation.build`."""
        dim = self.dim or own.width
        if dim % self.heads:
            raise UserError(
                f"Cross-task attention: the task '{self.task}' has {dim} features, which is no multiple of "
                f"heads ({self.heads}). Give dim: a multiple of it."
            )
        return _Attention(self.task, own, {name: shape.features.width for name, shape in read.items()}, dim, self.heads)


class _Attention(RelationLayer):
    attention: Tensor

    def __init__(self, task: str, own: FeatureShape, widths: Mapping[str, int], dim: int, heads: int) -> None:
        super().__init__(own)
        self.task = task
        self.heads = heads
        self.query = nn.Linear(own.width, dim)
        self.keys = NamedModules({name: nn.Linear(width, dim) for name, width in widths.items()})
        self.values = NamedModules({name: nn.Linear(width, dim) for name, width in widths.items()})
        self.out = nn.Linear(dim, own.width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        # The mean weights of the last training batch, for people to look at.
        self.register_buffer("attention", torch.full((len(widths) + 1,), 1 / (len(widths) + 1)))

    def forward(self, own: Features, read: Mapping[str, Read]) -> Features:
        query = self._split(self.query(own.values)).unsqueeze(1)
        keys = torch.stack([self._split(self.keys[name](given.features.values)) for name, given in read.items()], 1)
        values = torch.stack([self._split(self.values[name](given.features.values)) for name, given in read.items()], 1)
        scores = (query * keys).sum(3) / math.sqrt(keys.shape[3])  # [B, S, heads]
        weights = torch.cat([scores, torch.zeros_like(scores[:, :1])], dim=1).softmax(1)
        if self.training:
            with torch.no_grad():
                self.attention.copy_(weights.mean((0, 2)))
        taken = (weights[:, :-1].unsqueeze(3) * values).sum(1).flatten(1)
        return own._replace(values=own.values + self.out(taken))

    def learned(self) -> dict[str, LearnedTable]:
        table = LearnedTable(self.attention.clone().unsqueeze(0), (self.task,), (*self.keys, NO_TASK))
        return {f"attention of {self.task}": table}

    def _split(self, values: Tensor) -> Tensor:
        return values.view(len(values), self.heads, -1)
