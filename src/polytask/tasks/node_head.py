"""The head of tasks that say something of each node."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polytask.features import Features
from polytask.sequences import Sequences, padded
from polytask.tasks.head import mlp_head


class NodeHead(nn.Module):
    """Nodes to one output for each: `Sequences` `[B, L, outputs]`, L being the nodes of the largest graph.

    Args:
        width: Number of features of a node.
        hidden: Widths of the hidden layers.
        outputs: Values that go out.
        dropout: Probability of dropping a value before each linear map.
        task: The task's name, for messages.
    """

    def __init__(self, width: int, hidden: Sequence[int], outputs: int, dropout: float, *, task: str) -> None:
        super().__init__()
        self.layers = mlp_head(width, hidden, outputs, dropout, task=task)

    def forward(self, features: Features) -> Sequences:
        """`[N, D]` to `[B, L, outputs]`; on a device, it is waited for."""
        graphs = features.graphs
        assert graphs is not None
        found: Tensor = self.layers(features.values)
        starts = graphs.nodes.cumsum(0) - graphs.nodes
        places = torch.arange(len(found), device=found.device) - starts[graphs.batch]
        longest = max(1, int(graphs.nodes.max()) if len(graphs) else 0)
        values = found.new_zeros(len(graphs), longest, found.shape[1])
        return Sequences(values.index_put((graphs.batch, places), found), graphs.nodes)


def for_nodes(values: Tensor, nodes: int) -> Tensor:
    """Outputs `[B, L, ...]` for so many nodes; those for one alone stand for all of a row."""
    return values.expand(-1, nodes, -1) if values.shape[1] == 1 else padded(values, nodes)
