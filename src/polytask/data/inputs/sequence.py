"""Time series in columns: lists of numbers, texts of numbers, or a column for each step."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from polytask.data.column_types import ColumnType
from polytask.data.encoded import Encoded, Encoding, Ragged
from polytask.data.inputs.cells import UnreadableError
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.input import Input
from polytask.data.inputs.series import Series, series_in_cells, series_in_steps
from polytask.data.inputs.series_augmentation import SeriesAugmentation
from polytask.data.moments import Moments
from polytask.data.number_matrix import number_matrix
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError, listing
from polytask.shapes import SequenceShape

log = logging.getLogger("polytask")

_READABLE = (ColumnType.LIST, ColumnType.TEXT, ColumnType.CATEGORY)
_FITTED_ROWS = 1024
_UNFITTED_BYTES = 2**14


class SequenceInput(Input):
    """Time series of one or several channels, `{"values": float32 [B, T, C], "mask": bool [B, T]}`.

    T is the batch's longest series; shorter ones have zeros behind them, where the mask is false. A row's series are
    in one of these forms:

    - a column of lists for each channel, all lists of a row equally long;
    - one column of lists of lists: for each step a list of the channels;
    - texts of numbers, such as `0.5 1.2 0.8`, in a column for each channel;
    - several columns of numbers: a step each, in this order, of one channel. Empty cells at the end of a row are not
      part of its series.

    Each channel has the training part's mean taken off and is divided by its standard deviation. A missing step (null,
    NaN, an empty place between two separators) is filled, and a channel with missing steps in the training part gets
    another channel, 1 where a step is missing and else 0; these follow the channels.

    Args:
        columns: The column or columns, or a pattern such as `"t_*"`: all columns of such names, in the table's order. A
            tabular input of all columns that is named before this one must `exclude` them.
        separator: What stands between the numbers of a text; None: commas, semicolons or spaces. With a separator that
            is no space, nothing between two of them is a missing step; `nan`, `NA` and `null` always are.
        length: The greatest number of steps; longer series are cut. None: that of the longest training series.
        keep: Which end of a longer series is kept: `last` or `first`.
        fill: What a missing step becomes: `previous`, the last value before it (before the first one: the mean); or
            `mean`.
        indicators: Whether there are channels that say where steps are missing.
        crop: Share of the steps that is cut off at most from training series, from the start and the end at random.
        scale: Standard deviation of the random factor, around 1, of each channel of a training series.
        jitter: Standard deviation of the noise that is added to each value of training series, in standard deviations
            of the channel.
        on_error: What becomes of a row whose series cannot be read: `error`, or `skip`: it is left out, and logged.

    Raises:
        UserError: A parameter is out of range.
    """

    modality: ClassVar[Literal["sequence"]] = "sequence"

    def __init__(
        self,
        columns: str | Sequence[str],
        *,
        separator: str | None = None,
        length: int | None = None,
        keep: Literal["first", "last"] = "last",
        fill: Literal["previous", "mean"] = "previous",
        indicators: bool = True,
        crop: float = 0.0,
        scale: float = 0.0,
        jitter: float = 0.0,
        on_error: Literal["error", "skip"] = "error",
    ) -> None:
        if not columns:
            raise UserError("columns is empty. Name the column or the columns with the series.")
        if separator == "":
            raise UserError("separator is empty. Give what stands between two numbers, or null to find it out.")
        if length is not None and length < 1:
            raise UserError(f"length is {length}, but must be at least 1.")
        self._wanted = (columns,) if isinstance(columns, str) else tuple(columns)
        self.separator = separator
        self.length = length
        self.keep = keep
        self.fill = fill
        self.indicators = indicators
        self.augmentation = SeriesAugmentation(crop, scale, jitter)
        self.on_error = on_error
        self._in_steps = False
        self._mean = self._std = np.empty(0)
        self._indicated = np.empty(0, dtype=np.int64)
        self._length: int | None = length

    @property
    def named(self) -> tuple[str, ...]:
        """See `Input.named`; what a pattern stands for is known after `resolve`."""
        return self.columns or tuple(name for name in self._wanted if not _is_pattern(name))

    @property
    def shape(self) -> SequenceShape:
        """See `Input.shape`."""
        if self._length is None or not len(self._mean):
            raise RuntimeError(f"The sequence input of {listing(self._wanted)} is not fitted yet.")
        return SequenceShape(len(self._mean) + len(self._indicated), self._length)

    def resolve(self, table: Table, reserved: Collection[str]) -> None:
        """See `Input.resolve`."""
        found: dict[str, None] = {}
        for name in self._wanted:
            matched = [name]
            if _is_pattern(name) and not table.has(name):
                matched = [column for column in table.columns if fnmatchcase(column, name) and column not in reserved]
                if not matched:
                    raise UserError(
                        f"{table.source} has no column like '{name}' that is free for an input. Its columns: "
                        f"{listing(table.columns, limit=30)}."
                    )
            found.update(dict.fromkeys(matched))
        self.columns = tuple(found)
        super().resolve(table, reserved)
        kinds = {column: table.types[column] for column in self.columns}
        self._in_steps = all(kind in (ColumnType.NUMBER, ColumnType.BOOLEAN) for kind in kinds.values())
        if self._in_steps and len(kinds) == 1:
            raise UserError(
                f"{table.source}: '{self.columns[0]}' has one number a row, which is no series. Name the columns of "
                "all steps, or use the input type tabular."
            )
        other = next((column for column, kind in kinds.items() if kind not in _READABLE), None)
        if other is not None and not self._in_steps:
            raise UserError(
                f"{table.source}: the column '{other}' ({kinds[other].value}) cannot be part of a sequence input, "
                "which reads columns of lists or of texts of numbers, or else columns of numbers alone, a step each."
            )

    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """See `Input.fit`."""
        moments: Moments | None = None
        missing, longest, problem = np.zeros(0, dtype=np.int64), 0, "there are no rows"
        for positions, part in table.batches(self.columns, rows, size=_FITTED_ROWS):
            series = self._read(part, positions, table)
            if series.problems:
                row, reason = next(iter(series.problems.items()))
                problem = f"{table.locate(int(positions[row]))}: {reason}"
            if not len(series.values):
                continue
            if moments is None:
                moments = Moments(series.values.shape[1])
                missing = np.zeros(series.values.shape[1], dtype=np.int64)
            self._require_channels(series, len(missing), positions, table)
            moments.add(series.values)
            missing += np.isnan(series.values).sum(axis=0)
            longest = max(longest, int(series.lengths.max()))
        if moments is None:
            raise UserError(
                f"{table.source}: none of the training series in {listing(self.columns)} can be read; the last one: "
                f"{problem}."
            )
        self._mean, self._std = moments.mean, np.where(moments.std > 0, moments.std, 1.0)
        self._indicated = np.flatnonzero(missing) if self.indicators else np.empty(0, dtype=np.int64)
        self._length = longest if self.length is None else min(self.length, longest)
        if longest > self._length:
            log.info(
                "%s: the longest training series has %d steps, of which the %s %d are read.",
                table.source,
                longest,
                self.keep,
                self._length,
            )

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """See `Input.encode`."""
        series = self._read(part, rows, table)
        self._require_channels(series, len(self._mean), rows, table)
        failures = {int(rows[row]): problem for row, problem in series.problems.items()}
        values = series.values if len(series.values) else np.empty((0, len(self._mean)))
        return Encoding(self._cut(Ragged(self._filled(values, series.lengths), series.lengths)), failures)

    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> dict[str, Tensor]:
        """See `Input.collate`."""
        assert isinstance(values, Ragged)
        if draws is not None and self.augmentation:
            values = self.augmentation.apply(values, len(self._mean), rows, draws)
        mask = np.arange(max(int(values.lengths.max(initial=0)), 1)) < values.lengths[:, None]
        padded = np.zeros((*mask.shape, self.shape.channels), dtype=np.float32)
        padded[mask] = values.values
        return {"values": torch.from_numpy(padded), "mask": torch.from_numpy(mask)}

    @property
    def row_bytes(self) -> int:
        """See `Input.row_bytes`; more than float32, as numbers are read as float64."""
        return _UNFITTED_BYTES if not len(self._mean) else 12 * self.shape.channels * self.shape.length + 16

    @property
    def augments(self) -> bool:
        """See `Input.augments`."""
        return bool(self.augmentation)

    def state_dict(self) -> dict[str, Any]:
        """See `Input.state_dict`."""
        return {
            "columns": list(self.columns),
            "in_steps": self._in_steps,
            "mean": self._mean.tolist(),
            "std": self._std.tolist(),
            "indicated": self._indicated.tolist(),
            "length": self.shape.length,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Input.load_state_dict`."""
        self.columns = tuple(state["columns"])
        self._in_steps = state["in_steps"]
        self._mean, self._std = np.array(state["mean"]), np.array(state["std"])
        self._indicated = np.array(state["indicated"], dtype=np.int64)
        self._length = state["length"]

    def _read(self, part: pa.Table, rows: np.ndarray, table: Table) -> Series:
        """The series of some rows.

        Raises:
            UserError: One cannot be read, and that is an error.
        """
        if self._in_steps:
            series = series_in_steps(number_matrix(part, self.columns, rows, table))
        else:
            try:
                columns = [part.column(column) for column in self.columns]
                series = series_in_cells(columns, self.columns, self.separator)
            except UnreadableError as error:
                raise UserError(f"{table.source}: {error}.") from error
        for row in series.problems:
            absent = next((name for name in self.columns if not part.column(name)[row].is_valid), None)
            if absent is not None:
                series.problems[row] += table.absence(int(rows[row]), absent).reason
        if series.problems and self.on_error == "error":
            row, problem = next(iter(series.problems.items()))
            raise UserError(
                f"{table.locate(int(rows[row]))}: {problem}. Mend the series, remove the row, or set on_error: skip to "
                "leave out every row of this kind."
            )
        return series

    def _require_channels(self, series: Series, channels: int, rows: np.ndarray, table: Table) -> None:
        found = series.values.shape[1]
        if len(series.values) and found != channels:
            row = int(rows[series.lengths.argmax()])
            raise UserError(
                f"{table.locate(row)}: a step of '{self.columns[0]}' has {found} numbers, but {channels} in the "
                "training series before it. All must have the same channels."
            )

    def _filled(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """float32 `[total, C + I]`: standardised, without missing steps, and the channels that say where there were."""
        missing = np.isnan(values)
        scaled = np.where(missing, 0.0, (values - self._mean) / self._std)
        if self.fill == "previous" and missing.any():
            steps = np.arange(len(values))[:, None]
            latest = np.maximum.accumulate(np.where(missing, -1, steps), axis=0)
            start = np.repeat(np.cumsum(lengths) - lengths, lengths)[:, None]
            taken = np.take_along_axis(scaled, np.maximum(latest, 0), axis=0)
            scaled = np.where(latest >= start, taken, 0.0)
        return np.concatenate([scaled, missing[:, self._indicated]], axis=1).astype(np.float32)

    def _cut(self, series: Ragged) -> Ragged:
        kept = np.minimum(series.lengths, self.shape.length)
        if (kept == series.lengths).all():
            return series
        return series.window(series.lengths - kept if self.keep == "last" else np.zeros_like(kept), kept)


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")
