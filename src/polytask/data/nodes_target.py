"""Targets of one class, or one number, for each node of a graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.data.class_names import class_names
from polytask.data.conversion import as_numbers
from polytask.data.encoded import Encoded, GraphRows, Ragged
from polytask.data.geometry import Geometry
from polytask.data.inputs.graph_lists import items_of
from polytask.data.moments import Moments
from polytask.data.sequence_rows import SequenceTarget, Symbols
from polytask.data.table import Table
from polytask.data.tallies import NumberTally
from polytask.data.target import Target
from polytask.errors import UserError
from polytask.labels import TargetSummary
from polytask.sequences import Sequences

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input


class _OfNodes(Target):
    """A target with a list in each cell, whose entries belong to a graph's nodes, in their order.

    A null in a list is a node without a label, and an empty cell a graph without any.
    """

    _graphs: Input | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Target.columns`: those of the graphs too, whose nodes are counted."""
        return self.spec.columns if self._graphs is None else (*self.spec.columns, *self._graphs.columns)

    def follow(self, inputs: Mapping[str, Input]) -> None:
        """See `Target.follow`: find the graphs."""
        found = [each for each in inputs.values() if each.modality == "graph"]
        if len(found) != 1:
            raise UserError(
                f"Task '{self.task}' has a label for each node of a graph, so that there must be one input of graphs, "
                f"not {len(found)}. Inputs of graphs are graph, graph_columns and graph_table."
            )
        (self._graphs,) = found

    def meet(self, inputs: Mapping[str, Input]) -> None:
        """See `Target.meet`."""
        self.follow(inputs)

    @abstractmethod
    def made(self, given: Symbols, rows: np.ndarray, table: Table) -> Encoded:
        """Labels as they are kept; for the rest see `read`."""

    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoded:
        """See `Target.read`."""
        given = self.lists(part, rows, table)
        self._check_counts(given, part, rows, table)
        return self.made(given, rows, table)

    def labelled(self, part: pa.Table, rows: np.ndarray, table: Table) -> np.ndarray:
        """See `Target.labelled`; the graphs are not needed for it."""
        known: np.ndarray = self.known(self.made(self.lists(part, rows, table), rows, table)).numpy()
        return known

    def lists(self, part: pa.Table, rows: np.ndarray, table: Table) -> Symbols:
        """The labels as they are written, of any type; for parameters see `Target.read`."""
        column = self.spec.columns[0]
        cells = part.column(column)
        there = ~np.asarray(pc.is_null(cells))
        found = items_of(cells, column, table.source)
        for place, problem in found.problems.items():
            if there[place]:
                raise UserError(f"{table.locate(int(rows[place]))}: {problem}. Mend it, or empty the cell.")
        if [*found.parts] != ["0"]:
            raise UserError(
                f"{table.source}: the column '{column}', the target of the task '{self.task}', does not hold one label "
                "for each node: lists of labels, such as [0, 1, 0]."
            )
        return Symbols(found.parts["0"], found.counts, there)

    def _check_counts(self, given: Symbols, part: pa.Table, rows: np.ndarray, table: Table) -> None:
        """Make sure that each graph has as many labels as nodes.

        Raises:
            UserError: One has not.
        """
        if self._graphs is None:
            return
        encoding = self._graphs.encode(part.select(list(self._graphs.columns)), rows, table)
        assert isinstance(encoding.values, GraphRows)
        nodes = encoding.values.nodes.lengths
        read = np.array([row not in encoding.failures for row in rows.tolist()], dtype=bool)
        wrong = np.flatnonzero(given.there & read & (given.lengths != nodes))
        if len(wrong):
            place = int(wrong[0])
            raise UserError(
                f"{table.locate(int(rows[place]))}: '{self.spec.columns[0]}' (task '{self.task}') has "
                f"{given.lengths[place]} labels, but the graph has {nodes[place]} nodes. Each node needs one; one that "
                "is not known is a null in the list. Mend the row, or empty the cell."
            )


class NodeClassesTarget(_OfNodes, SequenceTarget):
    """One class for each node: see `SequenceTarget`."""

    def symbols(self, part: pa.Table, rows: np.ndarray, table: Table) -> Symbols:
        """See `SequenceTarget.symbols`."""
        found = self.lists(part, rows, table)
        return found._replace(names=class_names(found.names))

    def made(self, given: Symbols, rows: np.ndarray, table: Table) -> Encoded:
        """See `made` of the base class."""
        symbols = given._replace(names=class_names(given.names))
        return self.coded(symbols, rows, table, tuple(self.summary.classes))


class NodeNumbersTarget(_OfNodes):
    """One number for each node: `Sequences` of float32 `[B, L]`, NaN where it is not known; the mask is `[B]`."""

    def made(self, given: Symbols, rows: np.ndarray, table: Table) -> Encoded:
        """See `made` of the base class."""
        return Ragged(self._numbers(given, rows, table).astype(np.float32), given.lengths)

    def known(self, values: Encoded) -> Tensor:
        """See `Target.known`: the rows with a number that is known."""
        assert isinstance(values, Ragged)
        rows = np.repeat(np.arange(len(values)), values.lengths)
        return torch.from_numpy(np.bincount(rows[~np.isnan(values.values)], minlength=len(values)) > 0)

    def labels(self, values: Encoded, geometry: Geometry | None) -> tuple[Sequences, Tensor]:
        """See `Target.labels`."""
        assert isinstance(values, Ragged)
        longest = max(1, int(values.lengths.max(initial=0)))
        numbers = np.full((len(values), longest), np.nan, dtype=np.float32)
        numbers[np.arange(longest) < values.lengths[:, None]] = values.values
        return Sequences(torch.from_numpy(numbers), torch.from_numpy(values.lengths)), self.known(values)

    def tally(self) -> NumberTally:
        """See `Target.tally`."""
        return _NodeTally(self.spec.columns)

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        moments, labelled = Moments(1), 0
        for positions, part in table.batches(self.spec.columns, rows):
            found = self.lists(part, positions, table)
            numbers = self._numbers(found, positions, table)
            moments.add(numbers[:, None])
            labelled += int(self.known(Ragged(numbers, found.lengths)).sum())
        self._require_labels(labelled, table, rows)
        return TargetSummary(labelled=labelled, mean=tuple(moments.mean.tolist()), std=(float(moments.std[0]) or 1.0,))

    def _numbers(self, found: Symbols, rows: np.ndarray, table: Table) -> np.ndarray:
        """float64 `[N]`, NaN where a number is missing."""
        ends = np.cumsum(found.lengths)

        def where(index: int) -> str:
            place = int(np.searchsorted(ends, index, side="right"))
            node = index - int(ends[place] - found.lengths[place])
            return f"{table.locate(int(rows[place]))}, column '{self.spec.columns[0]}', node {node}"

        return as_numbers(pa.chunked_array([found.names]), where)


class _NodeTally(NumberTally):
    """Mean and standard deviation over all nodes."""

    def add(self, values: Encoded) -> None:
        """See `Tally.add`."""
        assert isinstance(values, Ragged)
        self._moments.add(values.values.astype(np.float64)[:, None])
