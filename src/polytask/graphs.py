"""Graphs of different sizes in one batch: what an input makes, encoders read, and sharing schemes take rows of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polytask.row_values import RowValues


@dataclass(frozen=True, eq=False)
class Graphs(RowValues):
    """B graphs side by side, as one graph without edges between them: the form that torch_geometric's layers read.

    The nodes of a graph come one after the other, in the order of the graphs, and so do its edges.

    Attributes:
        x: int64 `[N, F]`: each node's features, as codes of one vocabulary for all of them (see `GraphShape`).
        edge_index: int64 `[2, E]`: the nodes that each edge goes from and to.
        edge_attr: int64 `[E, G]`: each edge's features, likewise.
        batch: int64 `[N]`: the graph of each node.
        nodes: int64 `[B]`: how many nodes each graph has.
        edges: int64 `[B]`: how many edges each graph has.
        numbers: float32 `[N, M]`: each node's numeric features; None: there are none.
        edge_numbers: float32 `[E, M']`: each edge's, likewise.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    batch: Tensor
    nodes: Tensor
    edges: Tensor
    numbers: Tensor | None = None
    edge_numbers: Tensor | None = None

    @staticmethod
    def of(
        x: Tensor,
        ends: Tensor,
        edge_attr: Tensor,
        nodes: Tensor,
        edges: Tensor,
        *,
        numbers: Tensor | None = None,
        edge_numbers: Tensor | None = None,
    ) -> Graphs:
        """Graphs whose nodes are numbered from 0 in each.

        Args:
            x: As the attribute.
            ends: int64 `[2, E]`: the nodes that each edge goes from and to, by their numbers in their graph.
            edge_attr: As the attribute.
            nodes: As the attribute.
            edges: As the attribute.
            numbers: As the attribute.
            edge_numbers: As the attribute.
        """
        batch = torch.repeat_interleave(nodes, output_size=len(x))
        starts = torch.repeat_interleave(nodes.cumsum(0) - nodes, edges, output_size=ends.shape[1])
        return Graphs(x, ends + starts, edge_attr, batch, nodes, edges, numbers, edge_numbers)

    def __len__(self) -> int:
        return self.nodes.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> Graphs:
        """The same with `function` applied to all tensors: moves them to a device, say."""
        there = {name: function(tensor) for name, tensor in vars(self).items() if tensor is not None}
        return Graphs(**there)

    def select(self, rows: Tensor) -> Graphs:
        """The graphs at `rows` (int64), in that order; on a device, it is waited for."""
        return self.select_with(self.x, rows)[0]

    def select_with(self, values: Tensor, rows: Tensor) -> tuple[Graphs, Tensor]:
        """The graphs at `rows` (int64), in that order, and what values `[N, ...]` of all nodes their nodes have."""
        rows = rows.to(self.nodes.device)
        nodes, edges = self.nodes[rows], self.edges[rows]
        chosen, moved = _stretches(self.nodes, rows, nodes)
        lines, _ = _stretches(self.edges, rows, edges)
        # An edge's ends move as far as its graph's nodes do.
        ends = self.edge_index[:, lines] - torch.repeat_interleave(moved, edges, output_size=len(lines))
        batch = torch.repeat_interleave(nodes, output_size=len(chosen))
        x = self.x[chosen]
        numbers = None if self.numbers is None else self.numbers[chosen]
        edge_numbers = None if self.edge_numbers is None else self.edge_numbers[lines]
        found = Graphs(x, ends, self.edge_attr[lines], batch, nodes, edges, numbers, edge_numbers)
        return found, x if values is self.x else values[chosen]

    def mean(self, values: Tensor) -> Tensor:
        """Of values `[N, D]` of the nodes the mean over each graph's, `[B, D]`: 0 for a graph without nodes."""
        sums = values.new_zeros(len(self), values.shape[1]).index_add(0, self.batch, values)
        return sums / self.nodes.clamp(min=1).unsqueeze(1).to(values.dtype)

    def to_nodes(self, values: Tensor) -> Tensor:
        """Values of the graphs, `[B, ...]`, or one for all, `[1, ...]`, at each graph's nodes: `[N, ...]`."""
        return values.expand(len(self.x), *values.shape[1:]) if len(values) == 1 else values[self.batch]


def _stretches(sizes: Tensor, rows: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Where, in a sequence of stretches of these `sizes`, those at `rows` are, and how far each of them moves down.

    Args:
        sizes: int64 `[B]`.
        rows: int64 `[R]`.
        chosen: int64 `[R]`: the sizes at `rows`.
    """
    ends = chosen.cumsum(0)
    moved = (sizes.cumsum(0) - sizes)[rows] - (ends - chosen)
    total = int(ends[-1]) if len(ends) else 0
    places = torch.arange(total, device=sizes.device)
    return places + torch.repeat_interleave(moved, chosen, output_size=total), moved
