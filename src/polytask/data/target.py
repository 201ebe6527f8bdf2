"""What a target is: columns of a table that become what one task learns."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.data.batch import labelled_rows
from polytask.data.encoded import Dense, Encoded
from polytask.data.geometry import Geometry
from polytask.data.number_matrix import number_matrix
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing
from polytask.labels import TargetSpec, TargetSummary
from polytask.row_values import RowTargets

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input

log = logging.getLogger("polytask")

UNKNOWN = "unknown"
"""The name of the extra class for values that the training part does not have."""


class Tally(ABC):
    """What is counted of a target's labels, to be shown as text."""

    @abstractmethod
    def add(self, values: Encoded) -> None:
        """Count the labels of some rows, as `Target.read` gave them."""

    @abstractmethod
    def __str__(self) -> str: ...


class Target(ABC):
    """The reader of one task's target.

    Reading has two halves, as that of an input: `read` is fixed and may be kept in memory, `labels` makes what a batch
    has from what was kept.

    Args:
        task: The task's name, for messages.
        spec: How its columns are to be read.
    """

    def __init__(self, task: str, spec: TargetSpec) -> None:
        self.task = task
        self.spec = spec
        self._summary: TargetSummary | None = None

    @property
    def summary(self) -> TargetSummary:
        """What the training part says; after `fit`."""
        if self._summary is None:
            raise RuntimeError(f"The target of the task '{self.task}' is not fitted yet.")
        return self._summary

    def check(self, table: Table) -> None:
        """Make sure that the table has the target's columns.

        Raises:
            UserError: One is not there.
        """
        for column in self.spec.columns:
            if not table.has(column):
                raise UserError(
                    f"{table.source} has no column '{column}', the target of the task '{self.task}'."
                    f"{closest(column, table.columns)} Its columns: {listing(table.columns, limit=30)}."
                )

    def fit(self, table: Table, rows: np.ndarray) -> TargetSummary:
        """Learn from the training rows (int64 positions), in bounded memory.

        Raises:
            UserError: A column is not there, a value cannot be read, or there is nothing to learn.
        """
        self.check(table)
        self._summary = self._learn(table, rows)
        if self.spec.sample_weight is not None:
            self._check_weights(self.spec.sample_weight, table, rows)
        return self._summary

    def restored(self, decoded: Mapping[str, Any], rows: np.ndarray, table: Table) -> Mapping[str, Any]:
        """What a task decoded, measured as the user's files are; as it is, where it is measured in nothing of theirs.

        Args:
            decoded: Columns of a prediction table, as `Task.decode` gives them.
            rows: int64 `[B]`: the rows' positions in `table`.
            table: The rows that were predicted for.

        Raises:
            UserError: A file cannot be read.
        """
        return decoded

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that `read` needs; after `follow`."""
        return self.spec.columns

    @property
    def views_of(self) -> str | None:
        """The input that its task reads in changed versions, where it needs no labels; after `follow`.

        See `polytask.data.view_target`.
        """
        return None

    @property
    def follows(self) -> str | None:
        """The input whose positions the labels are at: they move as those do."""
        return None

    def follow(self, inputs: Mapping[str, Input]) -> None:  # noqa: B027 (most targets lie on no input)
        """Learn from the fitted inputs, for targets that lie on one of them; the others need nothing.

        Raises:
            UserError: There is no such input, or it is of another modality.
        """

    def meet(self, inputs: Mapping[str, Input]) -> None:  # noqa: B027 (most targets have no need of them)
        """Know the inputs again after `load_state_dict`, for targets that read something of theirs."""

    @property
    def row_bytes(self) -> int:
        """About how many bytes a row takes at most; after `follow`."""
        return 256

    @abstractmethod
    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoded:
        """The labels of rows, in the form in which they are kept.

        Args:
            part: The rows' columns.
            rows: int64 `[B]`: their positions in `table`.
            table: Where they come from, for messages and for files beside it.

        Raises:
            UserError: A value cannot be read, or is a class that the training part does not have.
        """

    @abstractmethod
    def known(self, values: Encoded) -> Tensor:
        """Where there is a label: bool `[B, ...]`, of rows that `read` gave."""

    @abstractmethod
    def labels(self, values: Encoded, geometry: Geometry | None) -> tuple[Tensor | RowTargets, Tensor]:
        """Target and mask, as in `Batch`.

        Args:
            values: The rows, as `read` gave them.
            geometry: How the positions of the input that it lies on have moved; None: not at all.
        """

    @abstractmethod
    def tally(self) -> Tally:
        """A new count of labels; after `fit`."""

    def labelled(self, part: pa.Table, rows: np.ndarray, table: Table) -> np.ndarray:
        """Which rows have a label, bool `[B]`; for parameters see `read`."""
        return labelled_rows(self.known(self.read(part, rows, table))).numpy()

    def weights(self, part: pa.Table, rows: np.ndarray, table: Table) -> Tensor:
        """What each row counts in the mean loss, float32 `[B]`: the number in the column for it, 1 where that is empty.

        Args:
            part: The rows' columns.
            rows: int64 `[B]`: their positions in `table`.
            table: Where they come from, for messages.

        Raises:
            UserError: A value is negative, or not a finite number.
        """
        assert self.spec.sample_weight is not None
        values = number_matrix(part, (self.spec.sample_weight,), rows, table)[:, 0]
        wrong = np.flatnonzero((values < 0) | (values > np.finfo(np.float32).max))
        if len(wrong):
            raise UserError(
                f"{table.locate(int(rows[wrong[0]]))}, column '{self.spec.sample_weight}': the sample_weight of the "
                f"task '{self.task}' is {values[wrong[0]]:g}, but must be a number of at least 0 that float32 holds. "
                "0 leaves the row out of the loss; an empty cell counts 1."
            )
        return torch.from_numpy(np.where(np.isnan(values), 1.0, values).astype(np.float32))

    def state_dict(self) -> dict[str, Any]:
        """All that was learned, ready for JSON."""
        return {"spec": _plain(asdict(self.spec)), "summary": _plain(asdict(self.summary))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what another target of the same kind learned."""
        self._summary = TargetSummary(**{name: _fixed(value) for name, value in state["summary"].items()})

    @abstractmethod
    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        """What the training rows say."""

    def _check_weights(self, column: str, table: Table, rows: np.ndarray) -> None:
        if not table.has(column):
            raise UserError(
                f"{table.source} has no column '{column}', the sample_weight of the task '{self.task}'."
                f"{closest(column, table.columns)} Its columns: {listing(table.columns, limit=30)}."
            )
        missing, total = 0, 0.0
        for positions, part in table.batches([*self.spec.columns, column], rows):
            labelled = self.labelled(part, positions, table)
            total += float(self.weights(part, positions, table)[torch.from_numpy(labelled)].sum())
            missing += int((labelled & np.asarray(pc.is_null(part.column(column)))).sum())
        if total == 0:
            raise UserError(
                f"Task '{self.task}': the sample_weight of every labelled training row, in the column '{column}', is "
                "0: there is nothing to learn from."
            )
        if missing:
            log.info("Task '%s': %d labelled training rows have no '%s': each counts 1.", self.task, missing, column)

    def _require_labels(self, labelled: int, table: Table, rows: np.ndarray) -> None:
        if labelled == 0:
            raise UserError(
                f"Task '{self.task}': none of the {len(rows):,} training rows of {table.source} has a value in "
                f"{listing(self.spec.columns)}, so there is nothing to learn from."
            )

    def _unseen(self, value: str, row: int, table: Table) -> UserError:
        classes = self.spec.classes or self.summary.classes
        origin = "is not among the task's classes" if self.spec.classes else "does not occur in the training part"
        remedy = (
            "list all classes in their order (classes)"
            if self.spec.ordered
            else f"set unseen: unknown, which puts it into an extra class '{UNKNOWN}'"
        )
        return UserError(
            f"{table.locate(row)}: the class '{value}' of '{self.spec.columns[0]}' (task '{self.task}') {origin}."
            f"{closest(value, classes)} Allowed: {listing(classes)}. Mend the value, empty the cell, or {remedy}."
        )

    def _with_unknown(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        extra = self.spec.unseen == "unknown" and UNKNOWN not in classes
        return (*classes, UNKNOWN) if extra else classes


class PlainTarget(Target):
    """A target of a few numbers a row, each with or without a label."""

    @abstractmethod
    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> tuple[Tensor, Tensor]:
        """Target and mask, as in `Batch`; for parameters and errors see `read`."""

    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoded:
        """See `Target.read`."""
        target, mask = self.encode(part, rows, table)
        return Dense({"target": target, "mask": mask})

    def known(self, values: Encoded) -> Tensor:
        """See `Target.known`."""
        assert isinstance(values, Dense)
        return values.tensors["mask"]

    def labels(self, values: Encoded, geometry: Geometry | None) -> tuple[Tensor, Tensor]:
        """See `Target.labels`."""
        assert isinstance(values, Dense)
        return values.tensors["target"], values.tensors["mask"]


def spec_from_state(state: Mapping[str, Any]) -> TargetSpec:
    """The description of the target whose `state_dict` this is."""
    return TargetSpec(**{name: _fixed(value) for name, value in state["spec"].items()})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
