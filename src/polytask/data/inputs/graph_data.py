"""Graphs given as nodes and edges: what both ways to write them in tables have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from polytask.data.class_names import class_names
from polytask.data.encoded import Encoded, Encoding, GraphRows, Ragged
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.graph import collated
from polytask.data.inputs.graph_features import Columns, EncodedFeatures, FeatureType, GraphFeatures
from polytask.data.inputs.input import Input
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError, closest, listing
from polytask.graphs import Graphs
from polytask.shapes import GraphShape

_PART_ROWS = 1024


@dataclass(frozen=True)
class GivenGraphs:
    """Graphs as they stand in the data.

    Attributes:
        nodes: int64 `[B]`: how many nodes each graph has.
        edges: int64 `[B]`: how many edges each graph has.
        ends: int64 `[E, 2]`: the nodes that each edge goes from and to, by their numbers in their graph, from 0.
        node_features: The nodes' features.
        edge_features: The edges' features.
        failures: What is wrong with a graph, by its place among the B; it has no nodes and edges here.
        node_name: What messages call a node, by its place among the nodes.
        edge_name: What messages call an edge, by its place among the edges.
    """

    nodes: np.ndarray
    edges: np.ndarray
    ends: np.ndarray
    node_features: Columns
    edge_features: Columns
    failures: Mapping[int, str]
    node_name: Callable[[int], str]
    edge_name: Callable[[int], str]

    @staticmethod
    def join(parts: Sequence[GivenGraphs]) -> GivenGraphs:
        """The graphs of all parts, which have the same features, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.nodes) for part in parts[:-1])]).tolist()
        counted = zip(parts, starts, strict=True)
        return GivenGraphs(
            np.concatenate([part.nodes for part in parts]),
            np.concatenate([part.edges for part in parts]),
            np.concatenate([part.ends for part in parts]),
            _joined([part.node_features for part in parts]),
            _joined([part.edge_features for part in parts]),
            {start + place: text for part, start in counted for place, text in part.failures.items()},
            _name_in([(part.node_name, int(part.nodes.sum())) for part in parts]),
            _name_in([(part.edge_name, int(part.edges.sum())) for part in parts]),
        )


class GraphDataInput(Input):
    """Graphs given as nodes and edges.

    Args:
        types: The types of features that are not what they look like.
        directed: Whether an edge goes one way; else each goes both ways.
        on_error: What becomes of a row without a readable graph.

    Raises:
        UserError: There is no such type.
    """

    modality: ClassVar[Literal["graph"]] = "graph"

    def __init__(
        self, types: Mapping[str, FeatureType] | None, *, directed: bool, on_error: Literal["error", "skip"]
    ) -> None:
        for name, kind in (types or {}).items():
            if kind not in ("number", "category"):
                raise UserError(
                    f"The type of the feature '{name}' is '{kind}'.{closest(kind, ('number', 'category'))} "
                    "Allowed: number, category."
                )
        self.types = dict(types or {})
        self.directed = directed
        self.on_error = on_error
        self._row_bytes = 0
        self._features()

    @abstractmethod
    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> GivenGraphs:
        """The graphs of some rows.

        Args:
            part: The rows' columns.
            rows: int64 `[B]`: their positions in `table`.
            table: Where they come from.

        Raises:
            UserError: What is there cannot be graphs at all.
        """

    @property
    def shape(self) -> GraphShape:
        """See `Input.shape`."""
        nodes, edges = self.node_features, self.edge_features
        return GraphShape(nodes.sizes, edges.sizes, len(nodes.numeric), len(edges.numeric))

    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """See `Input.fit`."""
        self._features()
        problem, readable = "", 0
        for positions, part in table.batches(self.columns, rows, size=_PART_ROWS):
            given = self.read(part, positions, table)
            if given.failures:
                place, text = next(iter(given.failures.items()))
                problem = problem or f"{table.locate(int(positions[place]))}: {text}"
                if self.on_error == "error":
                    raise self._unreadable(problem)
            readable += len(positions) - len(given.failures)
            if len(given.failures) < len(positions):
                self.node_features.learn(given.node_features)
                self.edge_features.learn(given.edge_features)
                # 4 bytes for each code, number and end; an edge may become two.
                node = 4 * max(1, len(given.node_features))
                edge = 8 * (2 + len(given.edge_features))
                self._row_bytes = max(self._row_bytes, int((given.nodes * node + given.edges * edge).max()))
        if not readable:
            raise UserError(f"None of the {len(rows)} training rows has a graph: {problem}.")
        self._check_types()
        self.node_features.finish()
        self.edge_features.finish()

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """See `Input.encode`."""
        given = self.read(part, rows, table)
        failures = dict(given.failures)
        nodes = self.node_features.encode(given.node_features, int(given.nodes.sum()))
        edges = self.edge_features.encode(given.edge_features, len(given.ends))
        for found, counts, name in (
            (nodes, given.nodes, given.node_name),
            (edges, given.edges, given.edge_name),
        ):
            graph_of = np.repeat(np.arange(len(rows)), counts)
            for index, text in found.problems.items():
                failures.setdefault(int(graph_of[index]), f"{name(index)}: {text}")
        if failures and self.on_error == "error":
            place = min(failures)
            raise self._unreadable(f"{table.locate(int(rows[place]))}: {failures[place]}")
        values = _rows(given, nodes, edges, failures, directed=self.directed)
        return Encoding(values, {int(rows[place]): text for place, text in sorted(failures.items())})

    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> Graphs:
        """See `Input.collate`."""
        assert isinstance(values, GraphRows)
        return collated(values)

    @property
    def row_bytes(self) -> int:
        """See `Input.row_bytes`."""
        return self._row_bytes

    def state_dict(self) -> dict[str, Any]:
        """See `Input.state_dict`."""
        return {
            "columns": list(self.columns),
            "nodes": self.node_features.state_dict(),
            "edges": self.edge_features.state_dict(),
            "row_bytes": self._row_bytes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Input.load_state_dict`."""
        self.columns = tuple(state["columns"])
        self.node_features.load_state_dict(state["nodes"])
        self.edge_features.load_state_dict(state["edges"])
        self._row_bytes = state["row_bytes"]

    def _features(self) -> None:
        """Features of which nothing is known yet."""
        self.node_features = GraphFeatures("node", self.types, constant=True)
        self.edge_features = GraphFeatures("edge", self.types)

    def _check_types(self) -> None:
        """Make sure that the features exist whose types are set.

        Raises:
            UserError: One does not.
        """
        known = (*self.node_features.found, *self.edge_features.found)
        for name in self.types:
            if name not in known:
                raise UserError(
                    f"There is no feature '{name}', whose type is set.{closest(name, known)} "
                    f"The features: {listing(known, limit=30) or 'none'}."
                )

    def _unreadable(self, problem: str) -> UserError:
        return UserError(
            f"{problem}. Mend the graph, remove the row, or set on_error: skip to leave out every row of this kind."
        )


def _joined(parts: Sequence[Columns]) -> Columns:
    joined = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        if len({column.type for column in columns}) > 1:
            columns = [class_names(column) for column in columns]
        joined[name] = pa.concat_arrays(columns)
    return joined


def _name_in(parts: Sequence[tuple[Callable[[int], str], int]]) -> Callable[[int], str]:
    """What messages call something, by its place in all parts, each given with how many there are in it."""

    def name(index: int) -> str:
        for named, count in parts:
            if index < count:
                return named(index)
            index -= count
        raise IndexError(index)

    return name


def _rows(
    given: GivenGraphs, nodes: EncodedFeatures, edges: EncodedFeatures, failures: Mapping[int, str], *, directed: bool
) -> GraphRows:
    """The graphs as a loader keeps them, without nodes and edges of those that cannot be read."""
    good = np.ones(len(given.nodes), dtype=bool)
    good[list(failures)] = False
    graph_of = np.repeat(np.arange(len(good)), given.edges)
    lines = np.flatnonzero(good[graph_of])
    ends = given.ends[lines]
    if not directed:
        back = _without_return(ends + (np.cumsum(given.nodes) - given.nodes)[graph_of[lines], None])
        lines, ends = np.concatenate([lines, lines[back]]), np.concatenate([ends, ends[back][:, ::-1]])
        # Behind its graph's edges as they were given, so that these keep their numbers.
        order = np.argsort(graph_of[lines], kind="stable")
        lines, ends = lines[order], ends[order]
    kept = np.repeat(good, given.nodes)
    node_counts = np.where(good, given.nodes, 0)
    edge_counts = np.bincount(graph_of[lines], minlength=len(good))
    codes = nodes.codes[kept]
    small = np.uint8 if codes.max(initial=0) < 256 else np.int32
    bonds = np.concatenate([ends, edges.codes[lines]], axis=1).astype(np.int32)
    return GraphRows(
        Ragged(codes.astype(small), node_counts),
        Ragged(bonds, edge_counts),
        None if nodes.numbers is None else Ragged(nodes.numbers[kept], node_counts),
        None if edges.numbers is None else Ragged(edges.numbers[lines], edge_counts),
    )


def _without_return(ends: np.ndarray) -> np.ndarray:
    """The edges that do not go back as well, by their places: neither as another edge nor as a loop.

    Args:
        ends: int64 `[E, 2]`: by numbers of nodes that no two graphs have in common.
    """
    base = int(ends.max(initial=0)) + 1
    return np.flatnonzero(~np.isin(ends[:, 1] * base + ends[:, 0], ends[:, 0] * base + ends[:, 1]))
