"""Graph isomorphism network."""

from __future__ import annotations

from typing import Any

from torch import nn

from polytask.components import FromData
from polytask.encoders.encoder import Encoder
from polytask.encoders.graph_stages import GraphPooling, Normalization, graph_stages, node_norm
from polytask.shapes import GraphShape


class GIN(Encoder):
    """Graph isomorphism network, with the edges' features where there are any (GINE).

    Xu, Hu, Leskovec and Jegelka, "How Powerful are Graph Neural Networks?", ICLR 2019,
    https://arxiv.org/abs/1810.00826; with edges as in Hu et al., "Strategies for Pre-training Graph Neural Networks",
    ICLR 2020, https://arxiv.org/abs/1905.12265. In each layer node v becomes

        h_v' = MLP((1 + ε) h_v + sum_u relu(h_u + e_uv))

    over its neighbours u, with ε learned and `e_uv` a linear map of the edge's features; without any, the sum is of the
    `h_u`. The MLP has one hidden layer, twice as wide. Stages: `embed`, `layer1`, `layer2`..., each with normalisation
    and ReLU, and `pool`.

    Args:
        dim: Number of features of a node.
        depth: Number of layers: how many edges far a node sees.
        dropout: Probability of dropping a feature behind each layer, and of the result, while training.
        normalization: Behind each layer, and within its MLP: `"batch"`, over the nodes of all graphs of a batch;
            `"layer"`, over the features of a node; or `"none"`.
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
            mlp = nn.Sequential(
                nn.Linear(dim, 2 * dim), node_norm(normalization, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)
            )
            kind = library.GINEConv if shape.edges_differ else library.GINConv
            made: nn.Module = kind(mlp, train_eps=True)
            return made

        super().__init__(
            graph_stages(
                "gin",
                shape,
                dim,
                depth,
                layer,
                reads_edges=shape.edges_differ,
                normalization=normalization,
                dropout=dropout,
                residual=residual,
                pooling=pooling,
            )
        )
