"""Stages that encoders of recordings have in common. What stands behind a recording's end is masked, and 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders.encoder import Stage
from polytask.encoders.limits import at_least, one_of
from polytask.encoders.spectrogram import (
    SpecAugment,
    SpectralFeatures,
    Spectrogram,
    SpectrumNorm,
    masked_moments,
    pad_frames,
)
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.shapes import AudioShape

SpectrumNormalization = Literal["dataset", "utterance", "none"]


class Spectra(Stage):
    """Samples to spectra: a `map` of bands and frames, with one channel for each of the recording's.

    Args:
        shape: The recordings.
        kind: `log_mel` or `mfcc`.
        bands: Number of bands, or of coefficients.
        window: Length of the window in seconds.
        hop: Seconds from one frame to the next.
        normalization: See `SpectrumNorm`.
        mask_bands: See `SpecAugment`.
        mask_time: See `SpecAugment`.
        multiple: Frames are padded to a multiple of this, so that stages that halve them lose none.

    Raises:
        UserError: A parameter is out of its limits.
    """

    def __init__(
        self,
        shape: AudioShape,
        kind: SpectralFeatures,
        *,
        bands: int,
        window: float,
        hop: float,
        normalization: SpectrumNormalization,
        mask_bands: int,
        mask_time: float,
        multiple: int,
    ) -> None:
        one_of(("log_mel", "mfcc"), features=kind)
        one_of(("dataset", "utterance", "none"), spectrum=normalization)
        at_least(1, bands=bands)
        at_least(0, mask_bands=mask_bands)
        for name, seconds in (("window", window), ("hop", hop)):
            if not 0 < seconds <= 1:
                raise UserError(f"'{name}' must be above 0 and at most 1 second, but {seconds:g} was given.")
        if not 0 <= mask_time < 1:
            raise UserError(f"'mask_time' must be a share of at least 0 and less than 1, but {mask_time:g} was given.")
        spectrogram = Spectrogram(shape.sample_rate, bands, window, hop, kind)
        super().__init__(spectrogram, FeatureShape("map", shape.channels))
        self.norm = SpectrumNorm(bands, normalization)
        self.augment = SpecAugment(mask_bands, mask_time, masks=2)
        self.multiple = multiple

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """`{"waveform": [B, C, S], "lengths": int64 [B]}` to `[B, C, bands, T]` with a mask `[B, T]`."""
        values = self.module(inputs["waveform"])
        frames = self.module.frames(inputs["lengths"])  # type: ignore[operator]
        mask = torch.arange(values.shape[3], device=values.device) < frames[:, None]
        values = self.augment(self.norm(values, mask), frames)
        return Features(*pad_frames(values, mask, self.multiple))


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation of maps over time: masked frames have no part in the statistics."""

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, C, F, T]` with a mask `[B, T]` to the same, with any values where the mask is false."""
        if not self.training or mask is None:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        with torch.autocast(input.device.type, enabled=False):
            values = input.to(self.weight.dtype)
            real = mask[:, None, None, :].to(values.dtype)
            mean, variance = masked_moments(values, real, (0, 2, 3))
            self._learn(mean.detach().flatten(), variance.detach().flatten(), real.sum() * values.shape[2])
            scale = self.weight * (variance.flatten() + self.eps).rsqrt()
            shift = self.bias - mean.flatten() * scale
            return torch.addcmul(shift[:, None, None], values, scale[:, None, None])

    @torch.no_grad()
    def _learn(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # A single value has no variance: it is not learned from.
        pace = torch.where(count > 1, self.momentum or 0.0, 0.0)
        self.running_mean.lerp_(mean, pace)
        self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), pace)


class AudioConvolution(Stage):
    """A 3 x 3 convolution, batch normalisation, ReLU and max pooling over bands and frames.

    Args:
        incoming: Number of channels that it reads.
        outgoing: Number of channels of the result.
        bands: How many bands become one.
        frames: How many frames become one.
        dropout: Probability of dropping a channel of the result while training.
    """

    def __init__(self, incoming: int, outgoing: int, bands: int, frames: int, dropout: float) -> None:
        # A bias before a normalisation has no effect.
        super().__init__(nn.Conv2d(incoming, outgoing, 3, padding=1, bias=False), FeatureShape("map", outgoing))
        nn.init.kaiming_normal_(self.module.weight, nonlinearity="relu")  # type: ignore[arg-type]
        self.norm = MaskedBatchNorm2d(outgoing)
        self.pool = (bands, frames)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Features) -> Features:
        """`[B, C, F, T]` with a mask `[B, T]` to `[B, C', F / bands, T / frames]`."""
        values, mask = features.values, features.mask
        assert mask is not None
        # Whatever came between the stages may have changed what is masked.
        values = (values * _as_map(mask, values)).contiguous(memory_format=torch.channels_last)
        values = self.module(values)
        values = self.norm(values, mask) if isinstance(self.norm, MaskedBatchNorm2d) else self.norm(values)
        # What is masked is 0, which the maximum of ReLUs does not see.
        values = F.max_pool2d(F.relu(values) * _as_map(mask, values), self.pool)
        return features._replace(values=self.dropout(values), mask=mask[:, :: self.pool[1]])


class StatisticsPool(Stage):
    """A map to the mean, or the mean and the deviation, of its values over time: a `vector`.

    Snyder, Garcia-Romero, Povey and Khudanpur, "Deep Neural Network Embeddings for Text-Independent Speaker
    Verification", Interspeech 2017.

    Args:
        channels: Number of channels.
        bands: Number of bands; each counts by itself.
        deviation: Whether deviations stand beside the means.
        dropout: Probability of dropping a feature of the result while training.
    """

    def __init__(self, channels: int, bands: int, deviation: bool, dropout: float) -> None:
        width = channels * bands * (2 if deviation else 1)
        super().__init__(nn.Dropout(dropout), FeatureShape("vector", width))
        self.deviation = deviation

    def forward(self, features: Features) -> Features:
        """`[B, C, F, T]` with a mask `[B, T]` to `[B, width]`."""
        values, mask = features.values, features.mask
        assert mask is not None
        mean, variance = masked_moments(values, _as_map(mask, values), (3,))
        # The root has no slope at 0.
        found = torch.cat([mean, (variance + 1e-5).sqrt()], dim=1) if self.deviation else mean
        return Features(self.module(found.flatten(1)))


class Frames(Stage):
    """A map to `tokens`: all channels and bands of a frame side by side, and a linear map.

    Args:
        channels: Number of channels.
        bands: Number of bands.
        dim: Number of features of a token.
        dropout: Probability of dropping a feature while training.
    """

    def __init__(self, channels: int, bands: int, dim: int, dropout: float) -> None:
        layers = nn.Sequential(nn.Linear(channels * bands, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Dropout(dropout))
        super().__init__(layers, FeatureShape("tokens", dim))

    def forward(self, features: Features) -> Features:
        """`[B, C, F, T]` to `[B, T, dim]`."""
        return features._replace(values=self.module(features.values.flatten(1, 2).transpose(1, 2)))


def _as_map(mask: Tensor, values: Tensor) -> Tensor:
    return mask[:, None, None, :].to(values.dtype)
