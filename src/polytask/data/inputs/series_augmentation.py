"""Random changes of training series, each drawn for its row and epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polytask.data.encoded import Ragged
from polytask.data.inputs.draws import Draws
from polytask.data.random_bits import mixed, uniform
from polytask.errors import UserError

_LENGTH, _START, _SCALE, _JITTER = range(4)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class SeriesAugmentation:
    """Which changes are made.

    `scale` and `jitter` are the gentle ones (see `Draws.gentle`), as in the weak augmentation of Eldele et al.,
    "Time-Series Representation Learning via Temporal and Contextual Contrasting", IJCAI 2021.

    Attributes:
        crop: Share of the steps that is cut off at most, from the start and the end.
        scale: Standard deviation of the factor, around 1, that multiplies a channel.
        jitter: Standard deviation of what is added to each value.

    Raises:
        UserError: A value is out of range.
    """

    crop: float = 0.0
    scale: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.crop < 1:
            raise UserError(f"crop is {self.crop}, but is a share of the steps: it must be at least 0 and below 1.")
        for name, value in {"scale": self.scale, "jitter": self.jitter}.items():
            if not (value >= 0 and math.isfinite(value)):
                raise UserError(f"{name} is {value}, but must be a number of at least 0, in standard deviations.")

    def __bool__(self) -> bool:
        return self.crop > 0 or self.scale > 0 or self.jitter > 0

    def apply(self, series: Ragged, channels: int, rows: np.ndarray, draws: Draws) -> Ragged:
        """Changed series.

        Args:
            series: float32 `[total, C]`, of B rows.
            channels: How many channels, the first ones, hold values; those behind them say what is missing.
            rows: int64 `[B]`: the rows' positions in their table.
            draws: Random numbers.
        """
        if self.crop and not draws.gentle:
            kept = np.ceil(series.lengths * (1 - self.crop * draws.uniform(rows, _LENGTH))).astype(np.int64)
            free = series.lengths - kept
            series = series.window((draws.uniform(rows, _START) * (free + 1)).astype(np.int64), kept)
        if not (self.scale or self.jitter):
            return series
        values = series.values.copy()
        row_of = np.repeat(np.arange(len(rows)), series.lengths)
        if self.scale:
            factors = 1 + self.scale * _normal(draws.bits(rows, _SCALE)[:, None], np.arange(channels))
            values[:, :channels] *= factors.astype(np.float32)[row_of]
        if self.jitter:
            step = np.arange(len(values)) - np.repeat(np.cumsum(series.lengths) - series.lengths, series.lengths)
            places = step[:, None] * channels + np.arange(channels)
            noise = self.jitter * _normal(draws.bits(rows, _JITTER)[row_of][:, None], places)
            values[:, :channels] += noise.astype(np.float32)
        return Ragged(values, series.lengths)


def _normal(bits: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Standard normal numbers, one for each place of each row (Box and Muller, 1958).

    Args:
        bits: uint64: random bits of a row, the seed of its stream.
        places: int64: which numbers of the stream, of a shape that goes with that of `bits`.
    """
    first = bits + (2 * places).astype(np.uint64) * _GOLDEN
    one, other = uniform(mixed(first)), uniform(mixed(first + _GOLDEN))
    found: np.ndarray = np.sqrt(-2 * np.log1p(-one)) * np.cos(2 * np.pi * other)
    return found
