"""Graphs in tables of their own: the nodes of all graphs in one, the edges in another."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from polytask.data.class_names import class_names
from polytask.data.inputs.graph_data import GivenGraphs, GraphDataInput
from polytask.data.inputs.graph_store import GraphNames, GraphStore, features_of
from polytask.data.readers import read_table
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError, listing

log = logging.getLogger("polytask")


class GraphTableInput(GraphDataInput):
    """Graphs in two tables of their own, of nodes and of edges; a row names its graph.

    A table of nodes has a column for the graph, one for the node's name, and features; a table of edges one for the
    graph, two for the nodes that it goes from and to, and features. Files are CSV, Parquet, JSON Lines or Arrow;
    relative paths start at the folder of the table whose rows name the graphs, so that other rows may bring other
    graphs. Their nodes stand in the order of the file.

    Numbers have the training part's mean taken off and are divided by its standard deviation; a missing one becomes the
    mean. Words and booleans are categories: codes for missing, for unknown, and for those of the training part.

    Args:
        nodes: The file with the nodes.
        edges: The file with the edges.
        key: The column that names the graph, in all three tables.
        node: The column that names the node, in `nodes`.
        source: The column with the node that an edge goes from, in `edges`.
        target: The column with the node that an edge goes to.
        node_features: Columns of `nodes`, or `"*"`: all others that are numbers, booleans or categories. Leave out
            what is to be predicted.
        edge_features: Columns of `edges`, likewise; an empty list: none.
        types: `number` or `category` for features that are not what they look like, by column.
        directed: Whether an edge goes one way. Else each goes both ways; one that the data have in both is not doubled.
        on_error: What becomes of a row without a readable graph (an unknown key, an edge to a node that there is not, a
            feature that is no number): `error`, or `skip`: it is left out, and logged.

    Raises:
        UserError: There is no such type.
    """

    def __init__(
        self,
        nodes: str,
        edges: str,
        key: str,
        *,
        node: str = "node",
        source: str = "source",
        target: str = "target",
        node_features: Literal["*"] | Sequence[str] = "*",
        edge_features: Literal["*"] | Sequence[str] = "*",
        types: Mapping[str, Literal["number", "category"]] | None = None,
        directed: bool = False,
        on_error: Literal["error", "skip"] = "error",
    ) -> None:
        for name, wanted in (("node_features", node_features), ("edge_features", edge_features)):
            if isinstance(wanted, str) and wanted != "*":
                raise UserError(f"{name} is '{wanted}'. Allowed: '*', or a list of columns: ['{wanted}'].")
        super().__init__(types, directed=directed, on_error=on_error)
        self.nodes, self.edges = nodes, edges
        self.names = GraphNames(key, node, source, target)
        self._wanted = {"nodes": node_features, "edges": edge_features}
        self._read: dict[str, tuple[str, ...]] = {}
        self._stores: dict[Path, GraphStore] = {}

    @property
    def named(self) -> tuple[str, ...]:
        """See `Input.named`."""
        return (self.names.key,)

    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """See `Input.fit`."""
        store = self._store(table.folder_of(int(rows[0]), self.names.key))
        _, node, source, target = self.names
        for what, data, others in (
            ("nodes", store.nodes, (self.names.key, node)),
            ("edges", store.edges, (self.names.key, source, target)),
        ):
            self._read[what], left_out = features_of(data, self._wanted[what], others)
            if left_out:
                log.info("%s: %s are no features, as they are text or the like", data.source, listing(left_out))
        super().fit(table, rows, targets)

    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> GivenGraphs:
        """See `GraphDataInput.read`."""
        folders = [table.folder_of(int(row), self.names.key) for row in rows]
        keys = class_names(part.column(self.names.key))
        found = [
            self._store(folder).read(keys.take(pa.array(places)), self._read["nodes"], self._read["edges"])
            for folder, places in _runs(folders)
        ]
        return GivenGraphs.join(found)

    def state_dict(self) -> dict[str, Any]:
        """See `Input.state_dict`."""
        return {**super().state_dict(), "read": {what: list(names) for what, names in self._read.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Input.load_state_dict`."""
        super().load_state_dict(state)
        self._read = {what: tuple(names) for what, names in state["read"].items()}

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes find the graphs again rather than being sent all of them.
        return {**self.__dict__, "_stores": {}}

    def _store(self, folder: Path | None) -> GraphStore:
        """The graphs that rows of a table in `folder` name."""
        folder = folder or Path()
        if folder not in self._stores:
            tables = [read_table(folder / Path(path).expanduser()) for path in (self.nodes, self.edges)]
            self._stores[folder] = GraphStore(tables[0], tables[1], self.names)
        return self._stores[folder]


def _runs(folders: Sequence[Path | None]) -> list[tuple[Path | None, np.ndarray]]:
    """Places that follow each other and have the same folder."""
    starts = [place for place in range(len(folders)) if not place or folders[place] != folders[place - 1]]
    return [
        (folders[start], np.arange(start, end)) for start, end in zip(starts, [*starts[1:], len(folders)], strict=True)
    ]
