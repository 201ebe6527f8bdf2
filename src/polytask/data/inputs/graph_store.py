"""Graphs in two tables of their own: one of all nodes, one of all edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.class_names import class_names
from polytask.data.column_types import ColumnType
from polytask.data.inputs.graph_data import GivenGraphs
from polytask.data.inputs.input import require_column
from polytask.data.table import Table
from polytask.errors import UserError

_PLAIN = (ColumnType.NUMBER, ColumnType.BOOLEAN, ColumnType.CATEGORY)


class GraphNames(NamedTuple):
    """The columns of the two tables that are no features.

    Attributes:
        key: The graph that a node or an edge is of; in both tables.
        node: The name of a node, different for each of a graph.
        source: The node that an edge goes from.
        target: The node that it goes to.
    """

    key: str
    node: str
    source: str
    target: str


class GraphStore:
    """Finds graphs by their keys. Features stay in the tables; what is kept is where each graph's rows are.

    Args:
        nodes: The nodes.
        edges: The edges.
        names: The columns.

    Raises:
        UserError: A column is not there, or a node or edge does not say which graph or node it is.
    """

    def __init__(self, nodes: Table, edges: Table, names: GraphNames) -> None:
        self.nodes, self.edges, self._names = nodes, edges, names
        keys = _names_in(nodes, names.key)
        self._keys = keys.unique()
        graph_of = _places(keys, self._keys)
        labels = _names_in(nodes, names.node)
        self._labels = labels.unique()
        label_of = _places(labels, self._labels)
        self._node_rows = np.argsort(graph_of, kind="stable")
        self._node_counts = np.bincount(graph_of, minlength=len(self._keys))
        self._node_starts = np.cumsum(self._node_counts) - self._node_counts
        # A node's number in its graph, and the graphs that have two nodes of one name.
        number_of = np.empty(len(nodes), np.int64)
        number_of[self._node_rows] = np.arange(len(nodes)) - np.repeat(self._node_starts, self._node_counts)
        whole = graph_of * len(self._labels) + label_of
        order = np.argsort(whole, kind="stable")
        twice = order[1:][np.diff(whole[order]) == 0]
        self._twice = {int(graph_of[row]): int(row) for row in np.sort(twice)[::-1]}
        self._read_edges(whole[order], number_of[order])

    def read(self, keys: pa.Array, node_features: Sequence[str], edge_features: Sequence[str]) -> GivenGraphs:
        """Graphs.

        Args:
            keys: Their names, `[B]`, as `class_names` makes them.
            node_features: The columns with the nodes' features.
            edge_features: The columns with the edges' features.
        """
        graphs = _places(keys, self._keys)
        failures: dict[int, str] = {}
        for place, graph in enumerate(graphs.tolist()):
            if problem := self._problem(graph, keys[place]):
                failures[place] = problem
        graphs[[*failures]] = -1
        nodes = np.where(graphs < 0, 0, self._node_counts[graphs])
        edges = np.where(graphs < 0, 0, self._edge_counts[graphs])
        node_rows = self._node_rows[_stretches(self._node_starts[graphs], nodes)]
        edge_rows = self._edge_rows[_stretches(self._edge_starts[graphs], edges)]
        return GivenGraphs(
            nodes,
            edges,
            self._ends[edge_rows],
            _columns(self.nodes, node_rows, node_features),
            _columns(self.edges, edge_rows, edge_features),
            failures,
            lambda index: self.nodes.locate(int(node_rows[index])),
            lambda index: self.edges.locate(int(edge_rows[index])),
        )

    def _read_edges(self, nodes: np.ndarray, number_of: np.ndarray) -> None:
        """Find each edge's nodes.

        Args:
            nodes: int64 `[N]`, sorted: the nodes by graph and name.
            number_of: int64 `[N]`: their numbers in their graphs.
        """
        names = self._names
        # A graph that has edges alone is unknown all the same.
        graph_of = _places(_names_in(self.edges, names.key), self._keys)
        known = graph_of >= 0
        self._strangers: dict[int, tuple[int, str]] = {}
        self._ends = np.empty((len(self.edges), 2), np.int64)
        for side, column in enumerate((names.source, names.target)):
            label_of = _places(_names_in(self.edges, column), self._labels)
            wanted = np.where(known & (label_of >= 0), graph_of * len(self._labels) + label_of, -1)
            found = np.minimum(np.searchsorted(nodes, wanted), len(nodes) - 1)
            there = nodes[found] == wanted
            self._ends[:, side] = number_of[found]
            for row in np.flatnonzero(known & ~there)[::-1].tolist():
                self._strangers[int(graph_of[row])] = (row, column)
        self._edge_rows = np.flatnonzero(known)
        self._edge_rows = self._edge_rows[np.argsort(graph_of[known], kind="stable")]
        self._edge_counts = np.bincount(graph_of[known], minlength=len(self._keys))
        self._edge_starts = np.cumsum(self._edge_counts) - self._edge_counts

    def _problem(self, graph: int, key: pa.Scalar) -> str | None:
        """What is wrong with a graph."""
        if not key.is_valid:
            return f"the row has no '{self._names.key}'"
        if graph < 0:
            return f"{self.nodes.source} has no nodes of the graph '{key}'"
        if graph in self._twice:
            row = self._twice[graph]
            name = self.nodes.take(np.array([row]), [self._names.node]).column(0)[0]
            return f"{self.nodes.locate(row)}: the graph '{key}' has the node '{name}' twice"
        if graph in self._strangers:
            row, column = self._strangers[graph]
            name = self.edges.take(np.array([row]), [column]).column(0)[0]
            return f"{self.edges.locate(row)}, column '{column}': the graph '{key}' has no node '{name}'"
        return None


def features_of(table: Table, wanted: str | Sequence[str], others: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The columns that are features.

    Args:
        table: The nodes, or the edges.
        wanted: Their names, or `"*"` for all numbers, booleans and categories.
        others: Columns that are something else.

    Returns:
        The columns, and those that are left out because they are something else.

    Raises:
        UserError: A column is not there, or names the graph or the node.
    """
    if isinstance(wanted, str):
        free = [column for column in table.columns if column not in others]
        chosen = tuple(column for column in free if table.types[column] in _PLAIN)
        return chosen, [column for column in free if column not in chosen]
    for column in wanted:
        require_column(table, column, " for a feature")
        if column in others:
            raise UserError(f"{table.source}: the column '{column}' names a graph or a node, and is no feature of it.")
    return tuple(wanted), []


def _names_in(table: Table, column: str) -> pa.Array:
    require_column(table, column)
    names = class_names(table.column(column))
    if names.null_count:
        row = int(pc.index(names.is_null(), True).as_py())
        raise UserError(f"{table.locate(row)}: the column '{column}' is empty. Fill it, or remove the row.")
    return names


def _places(values: pa.Array, among: pa.Array) -> np.ndarray:
    """int64: where each value is among others; -1: nowhere."""
    places: np.ndarray = np.array(pc.index_in(values, value_set=among, skip_nulls=True).fill_null(-1), dtype=np.int64)
    return places


def _stretches(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """int64: `counts` numbers from each of the `starts` on."""
    ends = np.cumsum(counts)
    found: np.ndarray = np.arange(int(counts.sum())) + np.repeat(starts - (ends - counts), counts)
    return found


def _columns(table: Table, rows: np.ndarray, names: Sequence[str]) -> dict[str, pa.Array]:
    if not names:
        return {}
    part = table.take(rows, names)
    return {name: part.column(name).combine_chunks() for name in names}
