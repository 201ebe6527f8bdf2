"""Spectra of recordings, computed in batches on their own device: log-mel and MFCC."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.errors import UserError

SpectralFeatures = Literal["log_mel", "mfcc"]
MelScale = Literal["htk", "slaney"]

_FLOOR = 1e-6
_LONGEST_TRANSFORM = 2**16


class Spectrogram(nn.Module):
    """Log-mel bands, or cepstral coefficients of them, of recordings of several lengths.

    Davis and Mermelstein, "Comparison of parametric representations for monosyllabic word recognition in continuously
    spoken sentences", IEEE TASSP 1980. Frame t is the stretch around sample `t hop`, in Hann's window:

        log_mel_b(t) = log(sum_f H_bf |FFT(window x)_f(t)|^2 + 1e-6)

    with triangles H of equal width on the mel scale, `2595 log10(1 + f / 700)`, up to half of the sampling rate. MFCC
    are the first coefficients of the orthonormal cosine transform (DCT-II) of these over the bands. Beyond its ends a
    recording is followed by zeros, so that what stands behind it in a batch changes nothing.

    Args:
        rate: Samples a second.
        bands: Number of mel bands; of coefficients where `kind` is `mfcc`, which are made of twice as many bands.
        window: Length of the window in seconds.
        hop: Seconds from one frame to the next.
        kind: `log_mel` or `mfcc`.

    Raises:
        UserError: There are more bands than the recordings' frequencies can tell apart.
    """

    window: Tensor
    filters: Tensor
    cosines: Tensor

    def __init__(self, rate: int, bands: int, window: float, hop: float, kind: SpectralFeatures = "log_mel") -> None:
        super().__init__()
        self.hop = max(1, round(hop * rate))
        length = max(2, round(window * rate))
        mel = bands if kind == "log_mel" else 2 * bands
        self.transform, filters = _narrow_enough(length, mel, rate)
        self.register_buffer("window", torch.hann_window(length), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        cosines = torch.empty(0) if kind == "log_mel" else cosine_transform(mel, bands)
        self.register_buffer("cosines", cosines, persistent=False)

    def frames(self, lengths: Tensor) -> Tensor:
        """How many frames recordings of these numbers of samples have."""
        return lengths.div(self.hop, rounding_mode="floor") + 1

    def forward(self, waves: Tensor) -> Tensor:
        """Samples `[B, C, S]` to `[B, C, bands, T]`, with `T = frames(S)`."""
        rows, channels, _ = waves.shape
        # Half precision cannot hold the power of loud and of quiet parts at once.
        with torch.autocast(waves.device.type, enabled=False):
            spectra = torch.stft(
                waves.flatten(0, 1).to(self.window.dtype),
                self.transform,
                self.hop,
                len(self.window),
                self.window,
                pad_mode="constant",
                return_complex=True,
            )
            power = torch.view_as_real(spectra).square().sum(-1)
            found: Tensor = (self.filters.T @ power + _FLOOR).log()
            if self.cosines.numel():
                found = self.cosines.T @ found
        return found.view(rows, channels, *found.shape[1:])


class SpectrumNorm(nn.Module):
    """Brings the bands to comparable size.

    Args:
        bands: Number of bands.
        kind: `dataset`: the mean and deviation of each band over all frames that training has seen so far (exact over
            the first four million frames, then moving on slowly); `utterance`: those over the recording itself, so
            that neither its loudness nor a constant colour of its sound is seen; `none`.
    """

    frames: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, bands: int, kind: Literal["dataset", "utterance", "none"]) -> None:
        super().__init__()
        self.kind = kind
        if kind == "dataset":
            self.register_buffer("frames", torch.zeros(()))
            self.register_buffer("mean", torch.zeros(bands, 1))
            self.register_buffer("variance", torch.ones(bands, 1))

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """`[B, C, bands, T]` with a mask `[B, T]` to the same, with zeros where the mask is false."""
        real = mask[:, None, None, :].to(values.dtype)
        if self.kind == "dataset":
            if self.training:
                self._learn(values, real)
            values = (values - self.mean) * (self.variance + 1e-5).rsqrt()
        elif self.kind == "utterance":
            mean, variance = masked_moments(values, real, (1, 3))
            values = (values - mean) * (variance + 1e-5).rsqrt()
        return values * real

    @torch.no_grad()
    def _learn(self, values: Tensor, real: Tensor) -> None:
        """Put a batch's moments together with those of all before it."""
        found = real.sum() * values.shape[1]
        mean, variance = (moment[0, 0] for moment in masked_moments(values, real, (0, 1, 3)))
        total = self.frames + found
        share = found / total.clamp(min=1)
        step = mean - self.mean
        self.variance.mul_(1 - share).add_(share * variance + share * (1 - share) * step.square())
        self.mean.add_(share * step)
        self.frames.copy_(total.clamp(max=2.0**22))


def masked_moments(values: Tensor, real: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and variance of `[B, C, F, T]` over some dimensions, which are kept, where `real` `[B, 1, 1, T]` is 1.

    Where nothing is, both are 0. Time is one of the dimensions.
    """
    alike = math.prod(values.shape[dim] for dim in dims if dim in (1, 2))
    count = (real.sum(dim=[dim for dim in dims if dim in (0, 3)], keepdim=True) * alike).clamp(min=1)
    mean = (values * real).sum(dim=dims, keepdim=True) / count
    return mean, ((values - mean) * real).square().sum(dim=dims, keepdim=True) / count


class SpecAugment(nn.Module):
    """Masks stretches of bands and of time, while training.

    Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", Interspeech 2019,
    https://arxiv.org/abs/1904.08779, without time warping, which the paper finds to help least. Each mask covers f
    bands from the f0-th on, with f drawn evenly from 0 to `bands` and f0 from all places; masks of time likewise. What
    is masked becomes 0, the mean of normalised features. Other than in the paper, the longest mask of time is a share
    of each recording, as in Park et al., "SpecAugment on Large Scale Datasets", ICASSP 2020.

    Args:
        bands: The widest mask of bands.
        time: The longest mask of time, as a share of the recording.
        masks: Number of masks of each kind.
    """

    def __init__(self, bands: int, time: float, masks: int) -> None:
        super().__init__()
        self.bands = bands
        self.time = time
        self.masks = masks

    def forward(self, values: Tensor, frames: Tensor) -> Tensor:
        """`[B, C, bands, T]`, with the number of frames of each recording, `[B]`, to the same."""
        if not self.training or not self.masks:
            return values
        rows, _, bands, time = values.shape
        if self.bands:
            widest = values.new_full((rows,), min(self.bands, bands))
            covered = self._covered(widest, torch.full_like(frames, bands), bands)
            values = values.masked_fill(covered[:, None, :, None], 0.0)
        if self.time:
            covered = self._covered((frames * self.time).floor().to(values.dtype), frames, time)
            values = values.masked_fill(covered[:, None, None, :], 0.0)
        return values

    def _covered(self, widest: Tensor, places: Tensor, size: int) -> Tensor:
        """What masks of at most `widest` `[B]` cover among the first `places` `[B]`: bool `[B, size]`."""
        draws = torch.rand(2, len(widest), self.masks, device=widest.device)
        width = (draws[0] * (widest[:, None] + 1)).floor()
        start = (draws[1] * (places[:, None] - width + 1)).floor()
        at = torch.arange(size, device=widest.device)[None, None]
        return ((at >= start[..., None]) & (at < (start + width)[..., None])).any(dim=1)


def mel_filters(bins: int, bands: int, rate: float, scale: MelScale = "htk", *, even_area: bool = False) -> np.ndarray:
    """Triangular filters of equal width on the mel scale, float64 `[bins, bands]`.

    Args:
        bins: Number of frequencies from 0 to half of the rate.
        bands: Number of filters.
        rate: Samples a second.
        scale: `htk`: `2595 log10(1 + f / 700)`; `slaney`: straight up to 1,000 Hz, and then logarithmic.
        even_area: Whether all filters have the same area in place of the same height.
    """
    edges = _edges(bands, rate, scale)
    found = np.linspace(0, rate / 2, bins)[:, None]
    rising = (found - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - found) / np.diff(edges)[1:]
    filters: np.ndarray = np.maximum(0, np.minimum(rising, falling))
    return filters * (2 / (edges[2:] - edges[:-2])) if even_area else filters


def cosine_transform(size: int, kept: int) -> Tensor:
    """The first columns of the orthonormal DCT-II, float32 `[size, kept]`."""
    place, number = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(kept, dtype=torch.float64)
    cosines = torch.cos(torch.pi / size * (place + 0.5) * number) * (2 / size) ** 0.5
    cosines[:, 0] /= 2**0.5
    kept_columns: Tensor = cosines.float()
    return kept_columns


def pad_frames(values: Tensor, mask: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Values `[..., T]` and their mask `[B, T]` with zeros up to a multiple of frames, so that halving loses none."""
    missing = -mask.shape[1] % multiple
    return (F.pad(values, (0, missing)), F.pad(mask, (0, missing))) if missing else (values, mask)


def _narrow_enough(length: int, bands: int, rate: int) -> tuple[int, np.ndarray]:
    """The shortest transform, a power of two, in which a filter of each band has a frequency; and the filters."""
    size, edges = 2 ** (length - 1).bit_length(), _edges(bands, rate, "htk")
    while size <= _LONGEST_TRANSFORM:
        places = edges * size / rate
        if (np.ceil(places[2:]) - np.floor(places[:-2]) > 1).all():
            return size, mel_filters(size // 2 + 1, bands, rate)
        size *= 2
    raise UserError(f"{bands} mel bands are more than {rate:,} samples a second can tell apart. Set fewer bands.")


def _edges(bands: int, rate: float, scale: MelScale) -> np.ndarray:
    """Where filters begin, peak and end, in hertz, float64 `[bands + 2]`: the next one begins at a peak."""
    return _to_hertz(np.linspace(0, _to_mel(rate / 2, scale), bands + 2), scale)


def _to_mel(hertz: float, scale: MelScale) -> float:
    if scale == "htk":
        return float(2595 * np.log10(1 + hertz / 700))
    return 3 * hertz / 200 if hertz < 1000 else float(15 + 27 / np.log(6.4) * np.log(hertz / 1000))


def _to_hertz(mels: np.ndarray, scale: MelScale) -> np.ndarray:
    found: np.ndarray
    if scale == "htk":
        found = 700 * (10 ** (mels / 2595) - 1)
    else:
        found = np.where(mels < 15, 200 / 3 * mels, 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))
    return found
