"""Recordings in a column, as samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from polytask.data.encoded import Encoded, Encoding, Ragged
from polytask.data.inputs.audio_augmentation import AudioAugmentation
from polytask.data.inputs.audio_decoding import FULL_SCALE, AudioChannels, AudioDecoder
from polytask.data.inputs.cells import Cell, UnreadableError, holds_files, map_cells, problem_with, unreadable
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.input import Input
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError
from polytask.shapes import AudioShape


class AudioInput(Input):
    """Recordings as `{"waveform": float32 [B, C, S], "lengths": int64 [B]}`, with S the batch's longest recording.

    A cell holds a path (relative ones start at the table's folder), a sound file's bytes, or a record of both as
    Hugging Face data sets have it. libsndfile reads WAV, FLAC, OGG, MP3 and more. Samples lie between -1 and 1, and
    are kept with 16 bits each; those of shorter recordings are followed by zeros. Augmentation (`crop`, `shift`,
    `gain`, `noise`) happens in training only, on the samples; encoders mask parts of the spectrum themselves.

    Args:
        column: The column.
        sample_rate: Samples a second that recordings are brought to; None: that which all recordings have.
        channels: 1: the mean of all channels; 2: left and right.
        max_seconds: Longer recordings are cut to so many seconds.
        crop: In training, a stretch of so many seconds is taken of longer recordings, anywhere in it; None: all of it.
        shift: Seconds by which a recording is moved at most, either way; zeros move in.
        gain: Decibels by which a recording gets louder or softer at most.
        noise: The least and the greatest ratio of a recording to the white noise that is added, in decibels: `[10,
            30]`, say. None: none is added.
        silence: What becomes of a recording all samples of which are 0: `error`: that of one that cannot be read; or
            `keep`.
        on_error: What becomes of a row without a readable recording: `error`, or `skip`: it is left out, and logged.

    Raises:
        UserError: A parameter is out of range.
    """

    modality: ClassVar[Literal["audio"]] = "audio"

    def __init__(
        self,
        column: str = "audio",
        *,
        sample_rate: int | None = None,
        channels: AudioChannels = 1,
        max_seconds: float = 30.0,
        crop: float | None = None,
        shift: float = 0.0,
        gain: float = 0.0,
        noise: Sequence[float] | None = None,
        silence: Literal["error", "keep"] = "error",
        on_error: Literal["error", "skip"] = "error",
    ) -> None:
        if sample_rate is not None and sample_rate < 1:
            raise UserError(f"sample_rate is {sample_rate}, but must be samples a second, such as 16000, or null.")
        if channels not in (1, 2):
            raise UserError(f"channels is {channels}. Allowed: 1 (mono), 2 (stereo).")
        if not (max_seconds > 0 and math.isfinite(max_seconds)):
            raise UserError(f"max_seconds is {max_seconds:g}, but must be a number of seconds above 0.")
        self.column = column
        self.channels = channels
        self.max_seconds = max_seconds
        self.silence = silence
        self.on_error = on_error
        self.augmentation = AudioAugmentation(crop, shift, gain, noise)
        self._wanted = sample_rate
        self._rate = sample_rate
        self._decoder: AudioDecoder | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """See `Input.named`."""
        return (self.column,)

    @property
    def shape(self) -> AudioShape:
        """See `Input.shape`."""
        return AudioShape(self._fitted_rate, self.channels, self._most)

    @property
    def augments(self) -> bool:
        """See `Input.augments`."""
        return bool(self.augmentation)

    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """See `Input.fit`: the first recording that can be read says how many samples a second all have."""
        decoder, problem = self._open(), "there are no rows"
        for positions, part in table.batches([self.column], rows, size=16):
            for row, cell in zip(positions.tolist(), self._cells(part, table), strict=True):
                try:
                    rate = decoder.rate(cell, table.folder_of(row, self.column))
                except UnreadableError as error:
                    problem = problem_with(error, cell, row, self.column, table)
                    if self.on_error == "error":
                        raise unreadable(problem, row, self.column, table) from error
                    problem = f"{table.locate(row)}: {problem}"
                else:
                    self._rate = self._wanted or rate
                    return
        raise UserError(
            f"{table.source}: none of the training recordings in '{self.column}' can be read; the last one: {problem}."
        )

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """See `Input.encode`."""
        decoder = self._open()
        found: list[np.ndarray] = [np.zeros((1, self.channels), dtype=np.int16)] * len(rows)

        def read(position: int, cell: Cell) -> str | None:
            row = int(rows[position])
            try:
                samples, rate = decoder.read(cell, table.folder_of(row, self.column), self._wanted)
            except UnreadableError as error:
                return problem_with(error, cell, row, self.column, table)
            if self._wanted is None and rate != self._fitted_rate:
                raise UserError(
                    f"{table.locate(row)}: the recording{_named(cell)} has {rate:,} samples a second, but the first "
                    f"training recording has {self._fitted_rate:,}. Set sample_rate: {min(rate, self._fitted_rate)}, "
                    "say, to bring all recordings to one rate."
                )
            found[position] = samples
            return None

        problems = map_cells(read, self._cells(part, table))
        failures = {int(row): problem for row, problem in zip(rows, problems, strict=True) if problem is not None}
        if failures and self.on_error == "error":
            row, problem = next(iter(failures.items()))
            raise unreadable(problem, row, self.column, table)
        lengths = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
        return Encoding(Ragged(np.concatenate(found), lengths), failures)

    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> dict[str, Tensor]:
        """See `Input.collate`."""
        assert isinstance(values, Ragged)
        lengths = values.lengths
        starts = np.cumsum(lengths) - lengths
        if draws is not None:
            skipped, lengths = self.augmentation.stretches(lengths, self._fitted_rate, rows, draws)
            starts = starts + skipped
        waves = np.zeros((len(lengths), self.channels, int(lengths.max(initial=1))), dtype=np.float32)
        for wave, start, length in zip(waves, starts.tolist(), lengths.tolist(), strict=True):
            np.divide(values.values[start : start + length].T, FULL_SCALE, out=wave[:, :length], dtype=np.float32)
        if draws is not None:
            self.augmentation.apply(waves, lengths, self._fitted_rate, rows, draws)
        return {"waveform": torch.from_numpy(waves), "lengths": torch.from_numpy(lengths)}

    @property
    def row_bytes(self) -> int:
        """See `Input.row_bytes`."""
        return 2 * self.channels * self._most

    def state_dict(self) -> dict[str, Any]:
        """See `Input.state_dict`."""
        return {"columns": list(self.columns), "sample_rate": self._fitted_rate}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Input.load_state_dict`."""
        self.columns = tuple(state["columns"])
        self._rate = state["sample_rate"]

    def __getstate__(self) -> dict[str, Any]:
        # The decoder holds a module, which cannot be sent to worker processes.
        return {**self.__dict__, "_decoder": None}

    @property
    def _fitted_rate(self) -> int:
        if self._rate is None:
            raise RuntimeError(f"The audio input of the column '{self.column}' is not fitted yet.")
        return self._rate

    @property
    def _most(self) -> int:
        return math.ceil(self.max_seconds * self._fitted_rate)

    def _open(self) -> AudioDecoder:
        if self._decoder is None:
            self._decoder = AudioDecoder(self.channels, self.max_seconds, silence=self.silence == "keep")
        return self._decoder

    def _cells(self, part: pa.Table, table: Table) -> list[Cell]:
        column = part.column(self.column)
        if not (holds_files(column.type) or pa.types.is_null(column.type)):
            raise UserError(
                f"{table.source}: the column '{self.column}' holds {column.type}, not recordings: paths, the bytes of "
                "sound files, or records with 'bytes' and 'path'."
            )
        cells: list[Cell] = column.to_pylist()
        return cells


def _named(cell: Cell) -> str:
    path = cell.get("path") if isinstance(cell, dict) else cell
    return f" '{path}'" if isinstance(path, str) else ""
