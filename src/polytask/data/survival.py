"""Targets of times until an event."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.data.column_types import ColumnType
from polytask.data.conversion import BadValue, convert
from polytask.data.encoded import Dense, Encoded
from polytask.data.number_matrix import number_matrix
from polytask.data.table import Table
from polytask.data.tallies import percent
from polytask.data.target import PlainTarget, Tally
from polytask.errors import UserError
from polytask.labels import TargetSummary

_EDGE_ROWS = 500_000
"""Rows whose events the intervals are made of; of more rows, a sample."""


class SurvivalTarget(PlainTarget):
    """A time a row: float32 `[B]`, at least 0 where the event happened then, below 0 where it had not until then."""

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> tuple[Tensor, Tensor]:
        """See `PlainTarget.encode`."""
        column, other = self.spec.columns
        time = number_matrix(part, (column,), rows, table)[:, 0]
        wrong = np.flatnonzero((time < 0) | (time > np.finfo(np.float32).max))
        if len(wrong):
            raise UserError(
                f"{table.locate(int(rows[wrong[0]]))}, column '{column}': the time is {time[wrong[0]]:g} (task "
                f"'{self.task}'), but must be a number of at least 0 that float32 holds. Mend the value, or empty it."
            )
        try:
            event = convert(part.column(other), ColumnType.BOOLEAN)
        except BadValue as error:
            raise UserError(
                f"{table.locate(int(rows[error.index]))}, column '{other}' (task '{self.task}'): {error}. Allowed: "
                "true and false, yes and no, 1 and 0, or an empty cell where it is not known."
            ) from error
        known = ~np.isnan(time) & np.asarray(pc.is_valid(event))
        happened = np.asarray(pc.fill_null(event, False))
        # No event until time 0 says nothing, but has to be below 0 like the others.
        signed = np.where(happened, time, -np.maximum(time, np.finfo(np.float32).tiny))
        values = np.where(known, signed, 0.0).astype(np.float32)
        return torch.from_numpy(values), torch.from_numpy(known)

    def tally(self) -> Tally:
        """See `Target.tally`."""
        return EventTally()

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        edges = self._edges(table, rows)
        middles = (np.concatenate([[0], edges[:-1]]) + edges) / 2
        events, passed = np.zeros(len(edges) + 1, dtype=np.int64), np.zeros(len(edges) + 1, dtype=np.int64)
        for positions, part in table.batches(self.spec.columns, rows):
            values, known = (each.numpy() for each in self.encode(part, positions, table))
            values = values[known]
            time, happened = np.abs(values), values >= 0
            within = np.searchsorted(edges, time)
            seen = np.searchsorted(middles.astype(np.float32), time, side="right")
            events += np.bincount(within[happened], minlength=len(events))
            passed += np.bincount(np.where(happened, within, seen), minlength=len(passed))
        labelled = int(passed.sum())
        beyond = labelled - np.cumsum(passed)[:-1]
        return TargetSummary(
            labelled=labelled,
            edges=tuple(edges.tolist()),
            counts=tuple(events[:-1].tolist()),
            known=tuple((beyond + events[:-1]).tolist()),
        )

    def _edges(self, table: Table, rows: np.ndarray) -> np.ndarray:
        """float32 `[J]`: times of events, with as many events between two as between others where ties allow."""
        sample = rows
        if len(rows) > _EDGE_ROWS:
            sample = np.sort(np.random.default_rng(0).choice(rows, _EDGE_ROWS, replace=False))
        found, labelled = [np.empty(0, dtype=np.float32)], 0
        for positions, part in table.batches(self.spec.columns, sample):
            values, known = (each.numpy() for each in self.encode(part, positions, table))
            labelled += int(known.sum())
            found.append(values[known & (values > 0)])
        self._require_labels(labelled, table, rows)
        times = np.sort(np.concatenate(found))
        if not len(times):
            time, event = self.spec.columns
            raise UserError(
                f"Task '{self.task}': no training row of {table.source} has an event ('{event}') at a time ('{time}') "
                "above 0, so there is nothing to learn from."
            )
        shares = np.arange(1, self.spec.intervals + 1) / self.spec.intervals
        edges: np.ndarray = np.unique(times[np.ceil(shares * len(times)).astype(np.int64) - 1])
        return edges


class EventTally(Tally):
    """How many rows had the event, and the mean time."""

    def __init__(self) -> None:
        self._rows, self._events, self._time = 0, 0, 0.0

    def add(self, values: Encoded) -> None:
        """See `Tally.add`."""
        assert isinstance(values, Dense)
        times = values.tensors["target"][values.tensors["mask"]]
        self._rows += len(times)
        self._events += int((times >= 0).sum())
        self._time += float(times.abs().double().sum())

    def __str__(self) -> str:
        rows = max(self._rows, 1)
        return f"event in {percent(100 * self._events / rows)}, mean time {self._time / rows:.4g}"
