"""Targets of one class or of numbers, and the way from a description to a target."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.data.boxes_target import BoxesTarget
from polytask.data.class_names import class_names, count_names, in_order
from polytask.data.contrast_target import ContrastTarget
from polytask.data.corrupted_target import CorruptedTarget
from polytask.data.dense_target import DenseTarget
from polytask.data.edges_target import EdgesTarget
from polytask.data.label_sets import LabelsTarget
from polytask.data.mask_target import MaskTarget
from polytask.data.masked_tokens_target import MaskedTokensTarget
from polytask.data.moments import Moments
from polytask.data.nodes_target import NodeClassesTarget, NodeNumbersTarget
from polytask.data.number_matrix import number_matrix
from polytask.data.rotation_target import RotationTarget
from polytask.data.survival import SurvivalTarget
from polytask.data.table import Table
from polytask.data.tags_target import TagsTarget
from polytask.data.tallies import ClassTally, NumberTally
from polytask.data.target import UNKNOWN, PlainTarget, Tally, Target, spec_from_state
from polytask.data.text_target import TextTarget
from polytask.errors import UserError
from polytask.labels import TargetSpec, TargetSummary

log = logging.getLogger("polytask")

_MANY_CLASSES = 100


class CategoryTarget(PlainTarget):
    """One class a row: int64 `[B]`."""

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> tuple[Tensor, Tensor]:
        """See `Target.encode`."""
        return self._encode(part, rows, table, tuple(self.summary.classes))

    def tally(self) -> Tally:
        """See `Target.tally`."""
        return ClassTally(self.summary.classes)

    def _encode(
        self, part: pa.Table, rows: np.ndarray, table: Table, classes: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        names = class_names(part.column(self.spec.columns[0]))
        codes = pc.index_in(names, value_set=pa.array(classes, pa.large_string()))
        present = np.asarray(pc.is_valid(names))
        unseen = present & np.asarray(pc.is_null(codes))
        target = np.array(codes.fill_null(0)).astype(np.int64)
        if unseen.any():
            index = int(unseen.argmax())
            if self.spec.unseen == "error":
                raise self._unseen(names[index].as_py(), int(rows[index]), table)
            target[unseen] = classes.index(UNKNOWN)
        return torch.from_numpy(target), torch.from_numpy(present)

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        counts: Counter[str] = Counter()
        for positions, part in table.batches(self.spec.columns, rows):
            if self.spec.classes is not None:
                self._encode(part, positions, table, self._with_unknown(self.spec.classes))
            counts += count_names(class_names(part.column(self.spec.columns[0])))
        self._require_labels(counts.total(), table, rows)
        if self.spec.classes is None and len(counts) == 1:
            raise UserError(
                f"Task '{self.task}': in the training part of {table.source}, '{self.spec.columns[0]}' has only one "
                f"class, '{next(iter(counts))}', so there is nothing to tell apart. At least two are needed."
            )
        classes = self._with_unknown(self.spec.classes or in_order(counts))
        self._warn(counts, classes)
        by_class = Counter({UNKNOWN: 0})
        for name, count in counts.items():
            by_class[name if name in classes else UNKNOWN] += count
        return TargetSummary(labelled=counts.total(), classes=classes, counts=tuple(by_class[name] for name in classes))

    def _warn(self, counts: Counter[str], classes: tuple[str, ...]) -> None:
        if len(classes) > _MANY_CLASSES and len(counts) > counts.total() / 2:
            log.warning(
                "Task '%s': '%s' has %d classes in %d training rows. For a quantity, the task's type is regression.",
                self.task,
                self.spec.columns[0],
                len(counts),
                counts.total(),
            )
        absent = [name for name in self.spec.classes or () if name not in counts]
        if absent:
            log.warning("Task '%s': no training row has the class '%s'.", self.task, "', '".join(absent))


class NumbersTarget(PlainTarget):
    """One or several numbers a row: float32 `[B, M]`, in the user's units."""

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> tuple[Tensor, Tensor]:
        """See `Target.encode`."""
        numbers = self._numbers(part, rows, table)
        known = ~np.isnan(numbers)
        values = np.where(known, numbers, 0.0).astype(np.float32)
        return torch.from_numpy(values), torch.from_numpy(known)

    def _numbers(self, part: pa.Table, rows: np.ndarray, table: Table) -> np.ndarray:
        """float64 `[B, M]`, NaN where there is no value."""
        numbers = number_matrix(part, self.spec.columns, rows, table)
        least = self.spec.least
        below = np.argwhere(numbers < (-np.inf if least is None else least))
        if least is not None and len(below):
            row, column = below[0]
            raise UserError(
                f"{table.locate(int(rows[row]))}, column '{self.spec.columns[column]}': the value is "
                f"{numbers[row, column]:g}, but the task '{self.task}' learns numbers of at least {least:g}. Mend the "
                "value, empty the cell, or make the task a regression."
            )
        return numbers

    def tally(self) -> Tally:
        """See `Target.tally`."""
        return NumberTally(self.spec.columns)

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        moments, labelled = Moments(len(self.spec.columns)), 0
        for positions, part in table.batches(self.spec.columns, rows):
            numbers = self._numbers(part, positions, table)
            moments.add(numbers)
            labelled += int((~np.isnan(numbers)).any(axis=1).sum())
        self._require_labels(labelled, table, rows)
        for column, count, std in zip(self.spec.columns, moments.count, moments.std, strict=True):
            if std == 0:
                described = "has no value" if count == 0 else "has one and the same value"
                log.warning("Task '%s': '%s' %s in the training part.", self.task, column, described)
        return TargetSummary(
            labelled=labelled,
            mean=tuple(moments.mean.tolist()),
            std=tuple(np.where(moments.std > 0, moments.std, 1.0).tolist()),
        )


_KINDS: Mapping[str, type[Target]] = {
    "boxes": BoxesTarget,
    "category": CategoryTarget,
    "contrast": ContrastTarget,
    "corrupted": CorruptedTarget,
    "dense": DenseTarget,
    "edges": EdgesTarget,
    "labels": LabelsTarget,
    "mask": MaskTarget,
    "node_classes": NodeClassesTarget,
    "node_numbers": NodeNumbersTarget,
    "masked_tokens": MaskedTokensTarget,
    "numbers": NumbersTarget,
    "rotation": RotationTarget,
    "survival": SurvivalTarget,
    "tags": TagsTarget,
    "text": TextTarget,
}


def make_target(task: str, spec: TargetSpec) -> Target:
    """The reader that a description asks for."""
    return _KINDS[spec.kind](task, spec)


def target_from_state(task: str, state: Mapping[str, Any]) -> Target:
    """The fitted reader whose `state_dict` this is."""
    target = make_target(task, spec_from_state(state))
    target.load_state_dict(state)
    return target
