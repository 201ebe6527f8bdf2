"""Recordings in cells of a table, decoded to samples."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polytask.data.inputs.cells import Cell, UnreadableError, file_of
from polytask.errors import require

AudioChannels = Literal[1, 2]

FULL_SCALE = 32_768
"""The whole number that stands for a sample of 1."""


class AudioDecoder:
    """Reads recordings: WAV, FLAC, OGG, MP3 and whatever else libsndfile knows.

    Args:
        channels: 1: the mean of all channels; 2: left and right, where a recording of one channel has both the same.
        seconds: What is read of a longer recording.
        silence: Whether recordings of nothing but zeros are read, too.

    Raises:
        MissingExtra: soundfile is not installed.
    """

    def __init__(self, channels: AudioChannels, seconds: float, *, silence: bool) -> None:
        self._library: Any = require("soundfile", extra="audio", purpose="The input 'audio'")
        self._channels = channels
        self._seconds = seconds
        self._silence = silence

    def rate(self, cell: Cell, folder: Path | None) -> int:
        """The samples a second of a recording.

        Args:
            cell: A path, a file's bytes, or a record with `bytes` and `path`.
            folder: Where relative paths start; None: the working directory.

        Raises:
            UnreadableError: There is no recording, or it is broken.
        """
        return self.read(cell, folder, None)[1]

    def read(self, cell: Cell, folder: Path | None, rate: int | None) -> tuple[np.ndarray, int]:
        """The samples of a recording.

        Args:
            cell: As in `rate`.
            folder: As in `rate`.
            rate: Samples a second to which the recording is brought; None: its own.

        Returns:
            int16 `[n, channels]`, where 32,768 stands for 1, and the samples a second.

        Raises:
            UnreadableError: There is no recording, it is broken, empty or silent.
        """
        source, name = file_of(cell, folder, "recording")
        if isinstance(source, Path) and not source.is_file():
            raise UnreadableError(f"the recording {name} does not exist")
        try:
            # Decoders raise errors of many kinds on broken files; nothing but the library runs here.
            with self._library.SoundFile(source) as file:
                own_rate = int(file.samplerate)
                samples = file.read(math.ceil(self._seconds * own_rate), dtype="float32", always_2d=True)
        except Exception as error:
            raise UnreadableError(f"the recording {name} cannot be read: {_reason(error)}") from error
        if not len(samples):
            raise UnreadableError(f"the recording {name} has no samples")
        if not np.isfinite(samples).all():
            raise UnreadableError(f"the recording {name} cannot be read: some samples are not numbers")
        if not (self._silence or samples.any()):
            raise UnreadableError(f"the recording {name} is silent: all its samples are 0 (silence: keep reads such)")
        samples = self._mixed(samples, name)
        if rate is not None and rate != own_rate:
            samples = resampled(samples, own_rate, rate)
        whole = np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
        return whole[: math.ceil(self._seconds * (rate or own_rate))], own_rate

    def _mixed(self, samples: np.ndarray, name: str) -> np.ndarray:
        found = samples.shape[1]
        if found == self._channels:
            return samples
        if self._channels == 1:
            mean: np.ndarray = samples.mean(axis=1, keepdims=True)
            return mean
        if found == 1:
            return np.repeat(samples, 2, axis=1)
        raise UnreadableError(
            f"the recording {name} has {found} channels, not one or two (channels: 1 takes their mean)"
        )


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Samples at another rate, by a polyphase filter that lets nothing through above half of either rate.

    Args:
        samples: `[n, channels]`.
        rate: Their samples a second.
        wanted: Those of the result.
    """
    from scipy.signal import resample_poly

    factor = Fraction(wanted, rate)
    found: np.ndarray = resample_poly(samples, factor.numerator, factor.denominator, axis=0)
    return found


def mean_power(samples: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """float64 `[B]`: of each recording, the mean square of its samples.

    Args:
        samples: `[B, C, S]`.
        lengths: int64 `[B]`: how many of the S each has; the others are 0.
    """
    total: np.ndarray = np.square(samples, dtype=np.float64).sum(axis=(1, 2))
    mean: np.ndarray = total / (samples.shape[1] * np.maximum(lengths, 1))
    return mean


def _reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", "") or error).strip().rstrip(".")
    return "it is no recording of a known format" if "Format not recognised" in text else text or type(error).__name__
