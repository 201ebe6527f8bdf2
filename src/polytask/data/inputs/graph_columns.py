"""Graphs in the cells of a table's own rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa

from polytask.data.column_types import is_number
from polytask.data.inputs.graph_data import GivenGraphs, GraphDataInput
from polytask.data.inputs.graph_lists import Items, items_of
from polytask.data.table import Table
from polytask.errors import UserError

_ENDS = ("0", "1", "source", "target")
"""What the ends of an edge are called in pairs, and in records."""


class GraphColumnsInput(GraphDataInput):
    """Graphs in the cells of the table: a list of nodes and a list of edges in each row.

    Nodes are a list with an entry for each: its features, `[[0.5, 1], [0.1, 0]]`; a record,
    `[{"kind": "C", "charge": 0.1}]`; or one value, `["C", "O"]`. Where nodes have no features, the column holds how
    many there are. Edges are pairs of nodes, `[[0, 1], [1, 2]]`, which are numbered from 0; or records with `source`,
    `target` and what else is known of the edge. JSON Lines, Parquet and Arrow files hold such lists as they are, CSV
    files as JSON in quotes.

    Numbers have the training part's mean taken off and are divided by its standard deviation; a missing one becomes the
    mean. Words and booleans are categories: codes for missing, for unknown, and for those of the training part.

    Args:
        nodes: The column with the nodes.
        edges: The column with the edges.
        edge_features: A column with the features of the edges, in the forms of `nodes` and in the order of `edges`;
            None: there are none, or `edges` has them.
        types: `number` or `category` for features that are not what they look like, by name; values of a list are
            named by their position, `"0"`, `"1"`...
        directed: Whether an edge goes one way. Else each goes both ways; one that the data have in both is not doubled.
        on_error: What becomes of a row without a readable graph (no node, an edge to a node that there is not, a
            feature that is no number): `error`, or `skip`: it is left out, and logged.

    Raises:
        UserError: There is no such type.
    """

    def __init__(
        self,
        nodes: str = "nodes",
        edges: str = "edges",
        *,
        edge_features: str | None = None,
        types: Mapping[str, Literal["number", "category"]] | None = None,
        directed: bool = False,
        on_error: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__(types, directed=directed, on_error=on_error)
        self.nodes = nodes
        self.edges = edges
        self.edge_column = edge_features

    @property
    def named(self) -> tuple[str, ...]:
        """See `Input.named`."""
        return (self.nodes, self.edges) if self.edge_column is None else (self.nodes, self.edges, self.edge_column)

    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> GivenGraphs:
        """See `GraphDataInput.read`."""
        nodes = self._nodes(part.column(self.nodes), table.source)
        edges = items_of(part.column(self.edges), self.edges, table.source, width=2)
        source, target = self._ends(edges, table.source)
        features = Items(edges.counts, {name: part for name, part in edges.parts.items() if name not in _ENDS}, {})
        failures = {**edges.problems, **nodes.problems}
        for place in np.flatnonzero(nodes.counts == 0).tolist():
            failures.setdefault(place, "the graph has no nodes")
        failures = {**_strangers(source, target, nodes.counts, edges.counts), **failures}
        if self.edge_column is not None:
            width = self.edge_features.width
            features = items_of(part.column(self.edge_column), self.edge_column, table.source, width)
            for place in np.flatnonzero(features.counts != edges.counts).tolist():
                counts = f"{edges.counts[place]} edges, but '{self.edge_column}' {features.counts[place]} entries"
                failures.setdefault(place, features.problems.get(place, f"the graph has {counts}"))
        ends = np.stack([source, target], axis=1)
        if failures:
            failed = np.isin(np.arange(len(rows)), [*failures])
            ends = ends[~np.repeat(failed, edges.counts)]
            nodes, edges, features = (items.without(failed) for items in (nodes, edges, features))
        return GivenGraphs(
            nodes.counts,
            edges.counts,
            ends,
            nodes.parts,
            features.parts,
            failures,
            lambda index: f"node {_number(index, nodes.counts)}",
            lambda index: f"edge {_number(index, edges.counts)}",
        )

    def _nodes(self, cells: pa.ChunkedArray, source: str) -> Items:
        if not is_number(cells.type):
            return items_of(cells, self.nodes, source, self.node_features.width)
        counts = np.asarray(cells.combine_chunks().cast(pa.float64()).fill_null(np.nan))
        whole = (counts >= 0) & (counts == np.floor(counts))
        bad = np.flatnonzero(~whole).tolist()
        problems = {
            place: f"'{self.nodes}' is " + ("empty" if np.isnan(counts[place]) else f"{counts[place]:g}, no count")
            for place in bad
        }
        return Items(np.where(whole, counts, 0).astype(np.int64), {}, problems)

    def _ends(self, edges: Items, source: str) -> tuple[np.ndarray, np.ndarray]:
        """int64 `[E]` twice: the nodes that each edge goes from and to; -1 where that is no whole number."""
        total = int(edges.counts.sum())
        if not total:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        names = [name for name in _ENDS if name in edges.parts]
        parts = [edges.parts[name] for name in names]
        if len(parts) != 2 or not all(is_number(part.type) for part in parts):
            raise UserError(
                f"{source}: the column '{self.edges}' does not hold edges: pairs of numbers of nodes, [[0, 1], "
                "[1, 2]], or records with numbers of nodes as 'source' and 'target'."
            )
        first, second = (np.asarray(part.cast(pa.float64()).fill_null(-1)) for part in parts)
        return np.where(first % 1, -1, first).astype(np.int64), np.where(second % 1, -1, second).astype(np.int64)


def _strangers(source: np.ndarray, target: np.ndarray, nodes: np.ndarray, edges: np.ndarray) -> dict[int, str]:
    """What is wrong with graphs that have an edge to a node that there is not, by their places."""
    graph_of = np.repeat(np.arange(len(nodes)), edges)
    most = nodes[graph_of]
    found: dict[int, str] = {}
    for index in np.flatnonzero((np.minimum(source, target) < 0) | (np.maximum(source, target) >= most)).tolist():
        place = int(graph_of[index])
        found.setdefault(
            place,
            f"edge {_number(index, edges)} goes from {source[index]} to {target[index]}, but the nodes are 0 to "
            f"{nodes[place] - 1}",
        )
    return found


def _number(index: int, counts: np.ndarray) -> int:
    """The number of an item in its graph, from 0."""
    place = int(np.searchsorted(np.cumsum(counts), index, side="right"))
    return index - int(counts[:place].sum())
