"""Augmentation of recordings: what the training sees changes from epoch to epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from polytask.data.inputs.audio_decoding import mean_power
from polytask.data.inputs.draws import Draws
from polytask.errors import UserError

_CROP, _SHIFT, _GAIN, _RATIO, _NOISE = range(5)


class AudioAugmentation:
    """Random changes of recordings, the same for a row whatever process makes them.

    Args:
        crop: Seconds of the stretch, anywhere in a longer recording, that is taken of it; None: all of it.
        shift: Seconds by which a recording is moved at most, either way, but at most half of its length: what leaves
            at one end is lost, and zeros come in at the other.
        gain: Decibels by which a recording gets louder or softer at most.
        noise: The least and the greatest ratio of the recording to white noise that is added, in decibels; None: none
            is added.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(self, crop: float | None, shift: float, gain: float, noise: Sequence[float] | None) -> None:
        if crop is not None and not crop > 0:
            raise UserError(f"crop is {crop:g}, but must be seconds above 0, or null.")
        for name, value, unit in (("shift", shift, "seconds"), ("gain", gain, "decibels")):
            if not (value >= 0 and math.isfinite(value)):
                raise UserError(f"{name} is {value:g}, but must be {unit} of at least 0.")
        if noise is not None and not (len(noise) == 2 and -math.inf < noise[0] <= noise[1] < math.inf):
            raise UserError(
                f"noise is {list(noise)}. Allowed: the least and the greatest ratio of recording to noise in decibels, "
                "such as [10, 30], or null."
            )
        self.crop = crop
        self.shift = shift
        self.gain = gain
        self.noise = noise

    def __bool__(self) -> bool:
        return self.crop is not None or self.shift > 0 or self.gain > 0 or self.noise is not None

    def stretches(
        self, lengths: np.ndarray, rate: int, rows: np.ndarray, draws: Draws
    ) -> tuple[np.ndarray, np.ndarray]:
        """What is taken of each recording: where it starts, and how many samples, int64 `[B]` each.

        Args:
            lengths: int64 `[B]`: the recordings' samples.
            rate: Samples a second.
            rows: int64 `[B]`: their positions in the table.
            draws: Random numbers.
        """
        if self.crop is None:
            return np.zeros_like(lengths), lengths
        taken = np.minimum(lengths, max(1, round(self.crop * rate)))
        return (draws.uniform(rows, _CROP) * (lengths - taken + 1)).astype(np.int64), taken

    def apply(self, waves: np.ndarray, lengths: np.ndarray, rate: int, rows: np.ndarray, draws: Draws) -> None:
        """Change recordings in place.

        Args:
            waves: float32 `[B, C, S]`, zeros behind a recording's end.
            lengths: int64 `[B]`: their samples.
            rate: Samples a second.
            rows: int64 `[B]`: their positions in the table.
            draws: Random numbers; gentle ones add no noise.
        """
        if self.shift:
            most = np.minimum(self.shift * rate, lengths / 2)
            moves = np.rint((2 * draws.uniform(rows, _SHIFT) - 1) * most).astype(np.int64)
            for wave, length, move in zip(waves, lengths.tolist(), moves.tolist(), strict=True):
                _move(wave[:, :length], move)
        if self.gain:
            decibels = (2 * draws.uniform(rows, _GAIN) - 1) * self.gain
            waves *= (10 ** (decibels / 20))[:, None, None].astype(np.float32)
        if self.noise is not None and not draws.gentle:
            low, high = self.noise
            decibels = low + (high - low) * draws.uniform(rows, _RATIO)
            levels = np.sqrt(mean_power(waves, lengths)) * 10 ** (-decibels / 20)
            seeds = draws.bits(rows, _NOISE)
            for wave, length, level, seed in zip(waves, lengths.tolist(), levels.tolist(), seeds.tolist(), strict=True):
                noise = np.random.default_rng(seed).standard_normal((len(wave), length), dtype=np.float32)
                wave[:, :length] += level * noise


def _move(wave: np.ndarray, by: int) -> None:
    """Move `[C, n]` in place by some samples, later for positive ones."""
    if by > 0:
        wave[:, by:] = wave[:, :-by].copy()
        wave[:, :by] = 0
    elif by < 0:
        wave[:, :by] = wave[:, -by:].copy()
        wave[:, by:] = 0
