"""Columns of numbers and categories, taken together."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.data.class_names import class_names, count_names, in_order
from polytask.data.column_types import ColumnType
from polytask.data.encoded import Dense, Encoded, Encoding
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.input import Input, require_column
from polytask.data.moments import Moments
from polytask.data.number_matrix import number_matrix
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError, listing
from polytask.shapes import TabularShape

log = logging.getLogger("polytask")

MISSING, UNKNOWN, FIRST = 0, 1, 2
"""The codes of a missing value, of a category that the training part does not have, and of the first that it has."""

_MEDIAN_ROWS = 100_000
_PART_VALUES = 2**22
_READABLE = (ColumnType.NUMBER, ColumnType.BOOLEAN, ColumnType.CATEGORY)


@dataclass(frozen=True)
class NumericColumn:
    """What the training part says about a column of numbers.

    Attributes:
        name: The column.
        mean: Of the values that are there.
        std: Of the values that are there; 1 where all are the same.
        median: Takes the place of a missing value.
        indicator: Whether a column of its own says where a value is missing.
    """

    name: str
    mean: float
    std: float
    median: float
    indicator: bool


@dataclass(frozen=True)
class CategoricalColumn:
    """What the training part says about a column of categories.

    Attributes:
        name: The column.
        categories: Those that have codes, in order.
    """

    name: str
    categories: tuple[str, ...]

    @cached_property
    def values(self) -> pa.Array:
        """The categories as Arrow looks them up."""
        return pa.array(self.categories, pa.large_string())


class TabularInput(Input):
    """Numbers and categories, `{"numeric": float32 [B, N], "categorical": int64 [B, C]}`.

    Numbers have the training part's mean taken off and are divided by its standard deviation. A missing number becomes
    the median (of a sample of 100,000 rows where there are more), and a column that has missing values in the training
    part gets another column, 1 where the value is missing and else 0; these follow the numbers. A category becomes its
    code: 0 missing, 1 unknown, then the training part's categories in order. Columns that are constant or empty in the
    training part are left out, which is logged.

    Args:
        columns: The columns, or `"*"`: all numbers, booleans and categories that are neither targets nor read by other
            inputs. Text, dates, images and columns that count the rows are then left out, which is logged; text that
            is named here is read as categories.
        exclude: Columns that are left out.
        missing: `impute`: as above. `error`: a missing value in any of the columns is an error.
        min_count: Categories with fewer training rows count as unknown.

    Raises:
        UserError: A parameter is out of range.
    """

    modality: ClassVar[Literal["tabular"]] = "tabular"

    def __init__(
        self,
        columns: Literal["*"] | Sequence[str] = "*",
        *,
        exclude: Sequence[str] = (),
        missing: Literal["impute", "error"] = "impute",
        min_count: int = 1,
    ) -> None:
        if isinstance(columns, str) and columns != "*":
            raise UserError(f"columns is '{columns}'. Allowed: '*', or a list of columns: ['{columns}'].")
        if not columns:
            raise UserError("columns is an empty list. Name at least one column, or give '*' for all.")
        if min_count < 1:
            raise UserError(f"min_count is {min_count}, but must be at least 1.")
        self._wanted = columns
        self._exclude = tuple(exclude)
        self._missing = missing
        self._min_count = min_count
        self._numeric: list[NumericColumn] = []
        self._categorical: list[CategoricalColumn] = []

    @property
    def named(self) -> tuple[str, ...]:
        """See `Input.named`."""
        return () if self._wanted == "*" else tuple(name for name in self._wanted if name not in self._exclude)

    @property
    def shape(self) -> TabularShape:
        """See `Input.shape`."""
        indicators = sum(column.indicator for column in self._numeric)
        return TabularShape(
            len(self._numeric) + indicators, tuple(FIRST + len(column.categories) for column in self._categorical)
        )

    def resolve(self, table: Table, reserved: Collection[str]) -> None:
        """See `Input.resolve`."""
        super().resolve(table, reserved)
        for column in self._exclude:
            require_column(table, column, " to leave out")
        if self._wanted != "*":
            for column in self.columns:
                if table.types[column] not in (*_READABLE, ColumnType.TEXT):
                    raise UserError(
                        f"{table.source}: the column '{column}' ({table.types[column].value}) cannot be part of a "
                        "tabular input, which reads numbers, booleans and categories. Take it out, or set its type."
                    )
            return
        free = [column for column in table.columns if column not in reserved and column not in self._exclude]
        refused = {column: table.types[column].value for column in free if table.types[column] not in _READABLE}
        refused |= {column: "counts the rows" for column in free if _counts_rows(table, column)}
        self.columns = tuple(column for column in free if column not in refused)
        _log_left_out(table, refused, "Name a column in `columns` to read it all the same.")

    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """See `Input.fit`."""
        numeric = [column for column in self.columns if table.types[column] is ColumnType.NUMBER]
        categorical = [column for column in self.columns if table.types[column] is not ColumnType.NUMBER]
        moments = Moments(len(numeric))
        counts: dict[str, Counter[str]] = {column: Counter() for column in categorical}
        for positions, part in table.batches(self.columns, rows, size=_PART_VALUES // max(len(self.columns), 1) + 1):
            moments.add(number_matrix(part, numeric, positions, table))
            for column in categorical:
                counts[column] += count_names(class_names(part.column(column)))
        useless: dict[str, str] = {}
        self._numeric, self._categorical = [], []
        for column, count, mean, std in zip(numeric, moments.count, moments.mean, moments.std, strict=True):
            if count == 0 or (std == 0 and count == len(rows)):
                useless[column] = "empty" if count == 0 else "constant"
            else:
                median = _median(table, column, rows)
                self._numeric.append(
                    NumericColumn(column, float(mean), float(std) or 1.0, median, bool(count < len(rows)))
                )
        for column, found in counts.items():
            kept = in_order(name for name, count in found.items() if count >= self._min_count)
            if not found or (len(found) == 1 and found.total() == len(rows)):
                useless[column] = "constant" if found else "empty"
            elif not kept:
                useless[column] = f"no category has {self._min_count} rows"
            else:
                self._categorical.append(CategoricalColumn(column, kept))
        _log_left_out(table, useless, "They say nothing in the training part.")
        self.columns = self._names()
        if not self.columns:
            raise UserError(
                f"{table.source} has no column left for the tabular input: besides targets and other inputs there are "
                "no numbers, booleans or categories that vary in the training part."
            )

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """See `Input.encode`."""
        numbers = number_matrix(part, [column.name for column in self._numeric], rows, table)
        missing = np.isnan(numbers)
        categories = np.empty((len(rows), len(self._categorical)), dtype=np.int64)
        for position, column in enumerate(self._categorical):
            categories[:, position] = category_codes(part.column(column.name), column.values)
        if self._missing == "error":
            self._refuse_missing(np.concatenate([missing, categories == MISSING], axis=1), rows, table)
        mean, std, median = (
            np.array([getattr(column, name) for column in self._numeric]) for name in ("mean", "std", "median")
        )
        scaled = (np.where(missing, median, numbers) - mean) / std
        indicators = missing[:, [position for position, column in enumerate(self._numeric) if column.indicator]]
        numeric = np.concatenate([scaled, indicators], axis=1).astype(np.float32)
        return Encoding(Dense({"numeric": torch.from_numpy(numeric), "categorical": torch.from_numpy(categories)}))

    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> dict[str, Tensor]:
        """See `Input.collate`."""
        assert isinstance(values, Dense)
        return values.tensors

    @property
    def row_bytes(self) -> int:
        """See `Input.row_bytes`."""
        return 4 * self.shape.numeric + 8 * len(self._categorical)

    def state_dict(self) -> dict[str, Any]:
        """See `Input.state_dict`."""
        return {
            "numeric": [asdict(column) for column in self._numeric],
            "categorical": [
                {"name": column.name, "categories": list(column.categories)} for column in self._categorical
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Input.load_state_dict`."""
        self._numeric = [NumericColumn(**column) for column in state["numeric"]]
        self._categorical = [
            CategoricalColumn(column["name"], tuple(column["categories"])) for column in state["categorical"]
        ]
        self.columns = self._names()

    def _names(self) -> tuple[str, ...]:
        return (*(column.name for column in self._numeric), *(column.name for column in self._categorical))

    def _refuse_missing(self, missing: np.ndarray, rows: np.ndarray, table: Table) -> None:
        if missing.any():
            found, number = np.argwhere(missing)[0]
            row, column = int(rows[found]), self.columns[number]
            reason, ways = table.absence(row, column)
            raise UserError(
                f"{table.locate(row)}: '{column}' is empty{reason}. {ways[0]}, {ways[1]}, or set missing: impute."
            )


def category_codes(column: pa.ChunkedArray | pa.Array, categories: pa.Array) -> np.ndarray:
    """The code of each value, int64 `[B]`: `MISSING`, `UNKNOWN`, or its place in `categories` behind `FIRST`."""
    names = class_names(column)
    known = np.asarray(pc.index_in(names, value_set=categories).fill_null(-1))
    return np.where(known >= 0, known + FIRST, np.where(np.asarray(names.is_valid()), UNKNOWN, MISSING))


def _median(table: Table, column: str, rows: np.ndarray) -> float:
    if len(rows) > _MEDIAN_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, _MEDIAN_ROWS, replace=False))
    values = table.numbers(column, rows)
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else 0.0


def _counts_rows(table: Table, column: str) -> bool:
    """Whether the column numbers the rows: 1, 2, 3... says where a row stands, not what it is."""
    if table.types[column] is not ColumnType.NUMBER or len(table) < 50:
        return False
    first = table.take(np.arange(min(len(table), 1000)), [column]).column(0)
    if not pa.types.is_integer(first.type) or first.null_count:
        return False
    return bool((np.diff(first.to_numpy()) == 1).all())


def _log_left_out(table: Table, reasons: Mapping[str, str], advice: str) -> None:
    if reasons:
        columns: dict[str, list[str]] = {}
        for column, reason in reasons.items():
            columns.setdefault(reason, []).append(column)
        shown = "; ".join(f"{listing(names)} ({reason})" for reason, names in columns.items())
        log.info("%s: left out of the tabular input: %s. %s", table.source, shown, advice)
