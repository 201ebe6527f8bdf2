"""The stages of graph networks: embedding, message passing over torch_geometric's layers, pooling."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polytask.encoders.batch_norm import BatchNorm1d
from polytask.encoders.encoder import Stage
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.errors import require
from polytask.features import Features, FeatureShape
from polytask.graphs import Graphs
from polytask.shapes import GraphShape

Normalization = Literal["batch", "layer", "none"]
GraphPooling = Literal["mean", "sum", "max", "attention"]

_PRODUCT_UP_TO = 512
"""With more codes than this, vectors are looked up."""


def graph_layers(encoder: str) -> Any:
    """`torch_geometric.nn`.

    Args:
        encoder: The encoder's name, for the message.

    Raises:
        MissingExtra: torch_geometric is not installed.
    """
    with warnings.catch_warnings():
        # It marks functions for TorchScript when it is imported, which newer versions of PyTorch warn of.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        return require("torch_geometric.nn", extra="graph", purpose=f"The encoder '{encoder}'")


def graph_stages(
    encoder: str,
    shape: GraphShape,
    dim: int,
    depth: int,
    layer: Callable[[Any], nn.Module],
    *,
    reads_edges: bool,
    normalization: Normalization,
    dropout: float,
    residual: bool,
    pooling: GraphPooling,
) -> dict[str, Stage]:
    """The stages `embed`, `layer1`, `layer2`..., `pool`.

    Args:
        encoder: The encoder's name, for messages.
        shape: The graphs.
        dim: Number of features of a node.
        depth: Number of message-passing layers.
        layer: Makes a layer of torch_geometric from `dim` to `dim` features, given `torch_geometric.nn`.
        reads_edges: Whether the layer takes `dim` features of each edge.
        normalization: Behind each layer.
        dropout: Probability of dropping a feature behind each layer, and of the result.
        residual: Whether a layer's input is added to its result.
        pooling: From nodes to a vector.

    Raises:
        UserError: A parameter is out of its limits.
        MissingExtra: torch_geometric is not installed.
    """
    at_least(1, dim=dim, depth=depth)
    dropout_rate(dropout=dropout)
    one_of(("batch", "layer", "none"), normalization=normalization)
    one_of(("mean", "sum", "max", "attention"), pooling=pooling)
    library = graph_layers(encoder)
    stages: dict[str, Stage] = {"embed": GraphEmbedding(shape, dim)}
    for number in range(1, depth + 1):
        edges = FeatureEmbedding(shape.edge_features, dim, shape.edge_numbers) if reads_edges else None
        norm = node_norm(normalization, dim)
        stages[f"layer{number}"] = MessagePassing(layer(library), dim, edges, norm, dropout, residual=residual)
    stages["pool"] = GraphPool(library, dim, pooling, dropout)
    return stages


def node_norm(normalization: Normalization, width: int) -> nn.Module:
    """Normalisation of nodes `[N, width]`."""
    if normalization == "batch":
        return BatchNorm1d(width)
    return nn.LayerNorm(width) if normalization == "layer" else nn.Identity()


class FeatureEmbedding(nn.Module):
    """What a linear map makes of numbers and of codes in their one-hot forms: of these, the sum of the codes' vectors.

    Args:
        features: For each feature that is a code, the number of its values.
        dim: The length of the result.
        numbers: How many numbers there are; they have about mean 0 and variance 1. There are numbers or codes.
    """

    def __init__(self, features: Sequence[int], dim: int, numbers: int = 0) -> None:
        super().__init__()
        std = (len(features) + numbers) ** -0.5
        self.table = self.linear = None
        if features:
            self.table = nn.Embedding(sum(features), dim)
            nn.init.normal_(self.table.weight, std=std)
        if numbers:
            self.linear = nn.Linear(numbers, dim, bias=not features)
            nn.init.normal_(self.linear.weight, std=std)

    def forward(self, codes: Tensor, numbers: Tensor | None) -> Tensor:
        """int64 `[N, F]` and float32 `[N, M]` (None for M = 0) to `[N, dim]`."""
        if self.linear is None:
            return self._of_codes(codes)
        assert numbers is not None
        found: Tensor = self.linear(numbers.to(self.linear.weight.dtype))
        return found if self.table is None else found + self._of_codes(codes)

    def _of_codes(self, codes: Tensor) -> Tensor:
        assert self.table is not None
        weight: Tensor = self.table.weight
        if len(weight) > _PRODUCT_UP_TO:
            return self.table(codes).sum(1)  # type: ignore[no-any-return]
        # One product instead of F vectors for each, and their sum: for a batch's bonds about a third of the time.
        ones = torch.zeros(len(codes), len(weight), dtype=weight.dtype, device=weight.device).scatter_(1, codes, 1.0)
        return ones @ weight


class GraphEmbedding(Stage):
    """Graphs to `nodes`: to what a linear map makes of each node's features.

    Args:
        shape: The graphs.
        dim: Number of features of a node in the result.
    """

    def __init__(self, shape: GraphShape, dim: int) -> None:
        embedding = FeatureEmbedding(shape.node_features, dim, shape.node_numbers)
        super().__init__(embedding, FeatureShape("nodes", dim))

    def forward(self, inputs: Graphs) -> Features:
        """`Graphs` of N nodes to `[N, dim]`."""
        return Features(self.module(inputs.x, inputs.numbers), None, inputs)


class MessagePassing(Stage):
    """`nodes` to `nodes`: a layer of torch_geometric, normalisation, ReLU, dropout, and the input added again.

    Args:
        layer: Reads nodes `[N, dim]`, edges as int64 `[2, E]` and, where `edges` are given, their features `[E, dim]`.
        dim: Number of features of a node.
        edges: Makes features of the edges' codes and numbers. Each layer has its own, so that a stage depends on the
            graphs and the stage before it alone.
        norm: Behind the layer.
        dropout: Probability of dropping a feature while training.
        residual: Whether the input is added to the result.
    """

    def __init__(
        self,
        layer: nn.Module,
        dim: int,
        edges: FeatureEmbedding | None,
        norm: nn.Module,
        dropout: float,
        *,
        residual: bool,
    ) -> None:
        super().__init__(layer, FeatureShape("nodes", dim))
        self.edges = edges
        self.norm = norm
        self.dropout = nn.Dropout(dropout)
        self.residual = residual

    def forward(self, features: Features) -> Features:
        """Nodes `[N, dim]` to `[N, dim]`."""
        values, graphs = features.values, features.graphs
        assert graphs is not None
        more: tuple[Tensor, ...] = ()
        if self.edges is not None:
            more = (self.edges(graphs.edge_attr, graphs.edge_numbers).to(values.dtype),)
        found = self.dropout(torch.relu(self.norm(self.module(values, graphs.edge_index, *more))))
        return features._replace(values=values + found if self.residual else found)


class GraphPool(Stage):
    """`nodes` to one `vector` a graph.

    Args:
        library: `torch_geometric.nn`.
        width: Number of features of a node.
        pooling: `mean`, `sum` or `max` over the nodes; or `attention`: their mean, weighted by `softmax(w h)`, with a
            learned vector w.
        dropout: Probability of dropping a feature of the result while training.
    """

    def __init__(self, library: Any, width: int, pooling: GraphPooling, dropout: float = 0.0) -> None:
        aggregations = {
            "mean": library.MeanAggregation,
            "sum": library.SumAggregation,
            "max": library.MaxAggregation,
            "attention": lambda: library.AttentionalAggregation(nn.Linear(width, 1)),
        }
        super().__init__(aggregations[pooling](), FeatureShape("vector", width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """Nodes `[N, width]` to `[B, width]`."""
        graphs = features.graphs
        assert graphs is not None
        return Features(self.dropout(self.module(features.values, graphs.batch, dim_size=len(graphs))))
