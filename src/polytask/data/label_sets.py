"""Targets of any number of classes a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.data.class_names import class_names, in_order
from polytask.data.column_types import ColumnType, is_list, is_text
from polytask.data.conversion import BadValue, convert
from polytask.data.table import Table
from polytask.data.tallies import ClassTally
from polytask.data.target import UNKNOWN, PlainTarget, Tally
from polytask.errors import UserError, listing
from polytask.labels import TargetSummary


class LabelsTarget(PlainTarget):
    """Yes or no for each of L classes: float32 `[B, L]`.

    Several columns are the classes, each with yes or no (also true and false, 1 and 0), and each can be missing for
    itself. One column has lists, or text with a separator; an empty list says that no class applies, an empty cell that
    nothing is known.
    """

    _yes_no = False

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> tuple[Tensor, Tensor]:
        """See `Target.encode`."""
        return self._encode(part, rows, table, tuple(self.summary.classes))

    def tally(self) -> Tally:
        """See `Target.tally`."""
        return ClassTally(self.summary.classes)

    def state_dict(self) -> dict[str, Any]:
        """See `Target.state_dict`."""
        return {**super().state_dict(), "yes_no": self._yes_no}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Target.load_state_dict`."""
        super().load_state_dict(state)
        self._yes_no = state["yes_no"]

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        self._yes_no = self._has_yes_no(table, rows)
        classes = self._classes(table, rows)
        counts = np.zeros(len(classes), dtype=np.int64)
        known = np.zeros(len(classes), dtype=np.int64)
        labelled = 0
        for positions, part in table.batches(self.spec.columns, rows):
            target, mask = self._encode(part, positions, table, classes)
            counts += target.sum(dim=0).long().numpy()
            known += mask.sum(dim=0).numpy()
            labelled += int(mask.any(dim=1).sum())
        self._require_labels(labelled, table, rows)
        return TargetSummary(
            labelled=labelled, classes=classes, counts=tuple(counts.tolist()), known=tuple(known.tolist())
        )

    def _has_yes_no(self, table: Table, rows: np.ndarray) -> bool:
        if len(self.spec.columns) > 1:
            return True
        storage = table.take(rows[:1], self.spec.columns).schema.field(0).type
        return not (holds_lists(storage) or pa.types.is_null(storage))

    def _classes(self, table: Table, rows: np.ndarray) -> tuple[str, ...]:
        if self._yes_no:
            names = self.spec.classes or self.spec.columns
            if len(names) != len(self.spec.columns):
                raise UserError(
                    f"Task '{self.task}' has {len(self.spec.columns)} yes/no columns, {listing(self.spec.columns)}, "
                    f"but {len(names)} classes: {listing(names)}."
                )
            return names
        if self.spec.classes is not None:
            return self._with_unknown(self.spec.classes)
        found: set[str] = set()
        for _, part in table.batches(self.spec.columns, rows):
            found.update(self._lists(part).names.drop_null().unique().to_pylist())
        if not found:
            self._require_labels(0, table, rows)
        return self._with_unknown(in_order(found))

    def _encode(
        self, part: pa.Table, rows: np.ndarray, table: Table, classes: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        encode = self._encode_yes_no if self._yes_no else self._encode_lists
        return encode(part, rows, table, classes)

    def _encode_yes_no(
        self, part: pa.Table, rows: np.ndarray, table: Table, classes: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        target = np.zeros((len(rows), len(classes)), dtype=np.float32)
        mask = np.zeros((len(rows), len(classes)), dtype=bool)
        for position, column in enumerate(self.spec.columns):
            try:
                values = convert(part.column(column), ColumnType.BOOLEAN)
            except BadValue as error:
                raise UserError(
                    f"{table.locate(int(rows[error.index]))}, column '{column}' (task '{self.task}'): {error}. "
                    "Allowed: true and false, yes and no, 1 and 0, or an empty cell where it is not known."
                ) from error
            mask[:, position] = pc.is_valid(values)
            target[:, position] = pc.fill_null(values, False)
        return torch.from_numpy(target), torch.from_numpy(mask)

    def _encode_lists(
        self, part: pa.Table, rows: np.ndarray, table: Table, classes: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        lists = self._lists(part)
        codes = pc.index_in(lists.names, value_set=pa.array(classes, pa.large_string()))
        unseen = np.asarray(pc.and_(pc.is_valid(lists.names), pc.is_null(codes)))
        if unseen.any() and self.spec.unseen == "error":
            index = int(unseen.argmax())
            raise self._unseen(lists.names[index].as_py(), int(rows[lists.rows[index]]), table)
        target = np.zeros((len(rows), len(classes)), dtype=np.float32)
        known = np.asarray(pc.is_valid(codes))
        target[lists.rows[known], np.asarray(codes.drop_null())] = 1
        if unseen.any():
            target[lists.rows[unseen], classes.index(UNKNOWN)] = 1
        mask = np.repeat(lists.present[:, None], len(classes), axis=1)
        return torch.from_numpy(target), torch.from_numpy(mask)

    def _lists(self, part: pa.Table) -> LabelLists:
        return lists_in(part.column(self.spec.columns[0]), self.spec.separator)


class LabelLists(NamedTuple):
    """The classes of some rows, one after the other.

    Attributes:
        names: Strings; null for what says nothing.
        rows: int64: the row of each, by its position in the part.
        present: bool `[B]`: which rows have a list.
    """

    names: pa.Array
    rows: np.ndarray
    present: np.ndarray


def holds_lists(storage: pa.DataType) -> bool:
    """Whether a column of this plain Arrow type has the names of classes, several a row, and not yes or no."""
    return is_list(storage) or is_text(storage)


def lists_in(column: pa.ChunkedArray, separator: str) -> LabelLists:
    """The classes of some rows.

    Args:
        column: Lists, or text with a separator.
        separator: The separator.
    """
    lists = column.combine_chunks()
    if is_list(lists.type):
        names = class_names(pc.list_flatten(lists))
    else:
        lists = pc.split_pattern(class_names(lists), pattern=separator)
        names = class_names(pc.utf8_trim_whitespace(pc.list_flatten(lists)))
    return LabelLists(names, np.asarray(pc.list_parent_indices(lists)), np.asarray(pc.is_valid(lists)))
