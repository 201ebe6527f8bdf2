"""Graph convolutional network."""

from __future__ import annotations

from typing import Any

from torch import nn

from polytask.components import FromData
from polytask.encoders.encoder import Encoder
from polytask.encoders.graph_stages import GraphPooling, Normalization, graph_stages
from polytask.shapes import GraphShape


class GCN(Encoder):
    """Graph convolutional network: it sees which nodes are joined, not by what kind of edge.

    Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional Networks", ICLR 2017,
    https://arxiv.org/abs/1609.02907. In each layer node v becomes `W sum_u h_u / sqrt(d_u d_v)` over its neighbours u
    and itself, with `d` the number of these. Stages: `embed`, `layer1`, `layer2`..., each with normalisation and ReLU,
    and `pool`.

    Args:
        dim: Number of features of a node.
        depth: Number of layers: how many edges far a node sees.
        dropout: Probability of dropping a feature behind each layer, and of the result, while training.
        normalization: Behind each layer: `"batch"`, over the nodes of all graphs of a batch; `"layer"`, over the
            features of a node; or `"none"`.
        residual: Whether a layer's input is added to its result.
        pooling: From nodes to a vector: `"mean"`, `"sum"` or `"max"` over a graph's nodes, or `"attention"`, a mean
            with learned weights.
        shape: The graphs.

    Raises:
        UserError: A parameter is out of its limits.
        MissingExtra: torch_geometric is not installed.
    """

    modality = "graph"

    def __init__(
        self,
        dim: int = 128,
        depth: int = 4,
        dropout: float = 0.1,
        *,
        normalization: Normalization = "batch",
        residual: bool = True,
        pooling: GraphPooling = "mean",
        shape: FromData[GraphShape],
    ) -> None:
        def layer(library: Any) -> nn.Module:
            made: nn.Module = library.GCNConv(dim, dim)
            return made

        super().__init__(
            graph_stages(
                "gcn",
                shape,
                dim,
                depth,
                layer,
                reads_edges=False,
                normalization=normalization,
                dropout=dropout,
                residual=residual,
                pooling=pooling,
            )
        )
