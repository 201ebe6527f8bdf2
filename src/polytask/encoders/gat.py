"""Graph attention network."""

from __future__ import annotations

from typing import Any

from torch import nn

from polytask.components import FromData
from polytask.encoders.encoder import Encoder
from polytask.encoders.graph_stages import GraphPooling, Normalization, graph_stages
from polytask.encoders.limits import at_least
from polytask.errors import UserError
from polytask.shapes import GraphShape


class GAT(Encoder):
    """Graph attention network, in its second form.

    Brody, Alon and Yahav, "How Attentive are Graph Attention Networks?", ICLR 2022, https://arxiv.org/abs/2105.14491
    (GATv2), after Veličković et al., ICLR 2018, https://arxiv.org/abs/1710.10903. In each layer node v becomes
    `sum_u a_uv W h_u` over its neighbours u and itself, in several heads side by side, with

        a_uv = softmax_u(a · leaky_relu(W' h_v + W h_u + W'' e_uv))

    and `e_uv` a linear map of the edge's features, where there are any; of a node with itself it is the mean
    over its edges. Stages: `embed`, `layer1`, `layer2`..., each with normalisation and ReLU, and `pool`.

    Args:
        dim: Number of features of a node.
        depth: Number of layers: how many edges far a node sees.
        heads: Number of attention heads; divides `dim`.
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
        heads: int = 4,
        dropout: float = 0.1,
        *,
        normalization: Normalization = "batch",
        residual: bool = True,
        pooling: GraphPooling = "mean",
        shape: FromData[GraphShape],
    ) -> None:
        at_least(1, heads=heads)
        if dim % heads:
            raise UserError(f"'dim' ({dim}) must be a multiple of 'heads' ({heads}).")

        def layer(library: Any) -> nn.Module:
            edge_dim = dim if shape.edges_differ else None
            made: nn.Module = library.GATv2Conv(dim, dim // heads, heads, edge_dim=edge_dim)
            return made

        super().__init__(
            graph_stages(
                "gat",
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
