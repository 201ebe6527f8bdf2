"""Convolutional network over spectra."""

from __future__ import annotations

from typing import Literal

from torch import nn

from polytask.components import FromData
from polytask.encoders.audio_stages import AudioConvolution, Spectra, SpectrumNormalization, StatisticsPool
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.initialization import he_init
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.encoders.spectrogram import SpectralFeatures
from polytask.features import FeatureShape
from polytask.shapes import AudioShape


class AudioCNN(Encoder):
    """Convolutional network over spectra, for recordings of any length.

    Hershey et al., "CNN Architectures for Large-Scale Audio Classification", ICASSP 2017,
    https://arxiv.org/abs/1609.09430, with the statistics pooling of x-vectors (Snyder et al., Interspeech 2017) at its
    end. The stage `spectra` computes them from the samples, on their device: see `Spectrogram`. Each stage `conv1`,
    `conv2`... is a 3 x 3 convolution, batch normalisation, ReLU and a 2 x 2 max pooling over bands and frames, after
    which the number of channels doubles. `pool` takes mean and deviation over time of each channel at each band that
    is left. Recordings of several lengths in a batch do not change each other: what is behind an end is masked.

    Args:
        width: Number of channels of the first convolution.
        depth: Number of convolutions.
        hidden: Number of units of a fully connected layer after the pooling (stage `hidden`); None: no such layer.
        dropout: Probability of dropping a feature of the result while training.
        channel_dropout: Probability of dropping a channel behind each convolution while training.
        pooling: Over time: `"mean_std"`, mean and deviation; or `"mean"`.
        features: `"log_mel"`, or `"mfcc"`, the first coefficients of their cosine transform.
        bands: Number of mel bands, or of coefficients.
        window: Length of the window of a spectrum in seconds.
        hop: Seconds from one spectrum to the next.
        spectrum: What brings the bands to comparable size: mean and deviation of each band over all training
            recordings (`"dataset"`), or over the recording itself (`"utterance"`), where loudness and the colour of a
            microphone say nothing; or `"none"`.
        mask_bands: SpecAugment, in training: two masks of up to so many bands each. 0: none.
        mask_time: SpecAugment, in training: two masks of up to this share of a recording each. 0: none.
        shape: The recordings.

    Raises:
        UserError: A parameter is out of its limits.
    """

    modality = "audio"

    def __init__(
        self,
        width: int = 32,
        depth: int = 4,
        hidden: int | None = 256,
        dropout: float = 0.2,
        *,
        channel_dropout: float = 0.0,
        pooling: Literal["mean_std", "mean"] = "mean_std",
        features: SpectralFeatures = "log_mel",
        bands: int = 64,
        window: float = 0.025,
        hop: float = 0.01,
        spectrum: SpectrumNormalization = "dataset",
        mask_bands: int = 8,
        mask_time: float = 0.1,
        shape: FromData[AudioShape],
    ) -> None:
        at_least(1, width=width, depth=depth, hidden=hidden)
        dropout_rate(dropout=dropout, channel_dropout=channel_dropout)
        one_of(("mean_std", "mean"), pooling=pooling)
        stages: dict[str, Stage] = {
            "spectra": Spectra(
                shape,
                features,
                bands=bands,
                window=window,
                hop=hop,
                normalization=spectrum,
                mask_bands=mask_bands,
                mask_time=mask_time,
                multiple=2**depth,
            )
        }
        incoming, outgoing, left = shape.channels, width, bands
        for number in range(1, depth + 1):
            halved = 2 if left >= 2 else 1
            stages[f"conv{number}"] = AudioConvolution(incoming, outgoing, halved, 2, channel_dropout)
            incoming, outgoing, left = outgoing, 2 * outgoing, left // halved
        pool = StatisticsPool(incoming, left, pooling == "mean_std", dropout if hidden is None else 0.0)
        stages["pool"] = pool
        if hidden is not None:
            layer = nn.Sequential(nn.Linear(pool.shape.width, hidden), nn.ReLU(), nn.Dropout(dropout))
            he_init(layer)
            stages["hidden"] = Stage(layer, FeatureShape("vector", hidden))
        super().__init__(stages)
