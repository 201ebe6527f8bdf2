"""Targets of several values a row, in an order: what tags of words and texts have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.data.class_names import in_order
from polytask.data.encoded import Encoded, Ragged
from polytask.data.geometry import Geometry
from polytask.data.table import Table
from polytask.data.tallies import ClassTally
from polytask.data.target import UNKNOWN, Target
from polytask.errors import UserError
from polytask.labels import TargetSummary
from polytask.sequences import BLANK, Sequences

NO_LIST = -2
"""Stands, alone, in rows that have no labels at all; a row of no values is one with an empty text."""


class Symbols(NamedTuple):
    """The labels of some rows, one after the other.

    Attributes:
        names: Large strings; null where a label is not known.
        lengths: int64 `[B]`: how many each row has.
        there: bool `[B]`: which rows have labels.
    """

    names: pa.Array
    lengths: np.ndarray
    there: np.ndarray


class SequenceTarget(Target):
    """Classes in an order: `Sequences` of int64 `[B, L]`, `BLANK` where a label is not known; the mask is `[B]`."""

    @abstractmethod
    def symbols(self, part: pa.Table, rows: np.ndarray, table: Table) -> Symbols:
        """The labels as they are written; for parameters see `Target.read`."""

    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoded:
        """See `Target.read`."""
        return self.coded(self.symbols(part, rows, table), rows, table, tuple(self.summary.classes))

    def known(self, values: Encoded) -> Tensor:
        """See `Target.known`: the rows with a label that is known."""
        assert isinstance(values, Ragged)
        rows = np.repeat(np.arange(len(values)), values.lengths)
        return torch.from_numpy(np.bincount(rows[values.values >= 0], minlength=len(values)) > 0)

    def labels(self, values: Encoded, geometry: Geometry | None) -> tuple[Sequences, Tensor]:
        """See `Target.labels`."""
        assert isinstance(values, Ragged)
        padded, _ = values.padded(BLANK)
        lengths = torch.from_numpy(values.lengths)
        nothing = padded[:, 0] == NO_LIST
        return Sequences(padded.clamp(min=BLANK), lengths.masked_fill(nothing, 0)), self.known(values)

    def tally(self) -> ClassTally:
        """See `Target.tally`."""
        return SymbolTally(self.summary.classes)

    def coded(self, symbols: Symbols, rows: np.ndarray, table: Table, classes: tuple[str, ...]) -> Ragged:
        """The classes' numbers.

        Raises:
            UserError: There is a class that is not among them.
        """
        codes = pc.index_in(symbols.names, value_set=pa.array(classes, pa.large_string()))
        values = np.array(codes.fill_null(BLANK)).astype(np.int32)
        unseen = (values == BLANK) & np.asarray(pc.is_valid(symbols.names))
        if unseen.any():
            index = int(unseen.argmax())
            if self.spec.unseen == "error":
                row = int(np.searchsorted(np.cumsum(symbols.lengths), index, side="right"))
                raise self._unseen(symbols.names[index].as_py(), int(rows[row]), table)
            values[unseen] = classes.index(UNKNOWN)
        found = Ragged(values, symbols.lengths)
        return found if symbols.there.all() else found.filled(~symbols.there, NO_LIST)

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        counts: Counter[str] = Counter()
        labelled = longest = 0
        for positions, part in table.batches(self.spec.columns, rows):
            symbols = self.symbols(part, positions, table)
            if self.spec.classes is not None:
                self.coded(symbols, positions, table, self._with_unknown(self.spec.classes))
            found = pc.value_counts(symbols.names.drop_null())
            pairs = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
            counts.update(dict(pairs))
            labelled += int(symbols.there.sum())
            longest = max(longest, int(symbols.lengths.max(initial=0)))
        self._require_labels(min(labelled, counts.total()), table, rows)
        classes = self._with_unknown(self.spec.classes or in_order(counts))
        if len(classes) < 2:
            raise UserError(
                f"Task '{self.task}': in the training part of {table.source}, '{self.spec.columns[0]}' has only one "
                f"class, '{classes[0]}', so there is nothing to tell apart. At least two are needed."
            )
        by_class = Counter({UNKNOWN: 0})
        for name, count in counts.items():
            by_class[name if name in classes else UNKNOWN] += count
        return TargetSummary(
            labelled=labelled, classes=classes, counts=tuple(by_class[name] for name in classes), longest=longest
        )


class SymbolTally(ClassTally):
    """The share of each class of all labels."""

    def add(self, values: Encoded) -> None:
        """See `Tally.add`."""
        assert isinstance(values, Ragged)
        known = values.values[values.values >= 0]
        self._counts += np.bincount(known, minlength=len(self._counts))
        self._known += len(known)
