"""Convolutional and recurrent network over spectra."""

from __future__ import annotations

from typing import Literal

from polytask.components import FromData
from polytask.encoders.audio_stages import AudioConvolution, Frames, Spectra, SpectrumNormalization
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.gru import BiGRULayer
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.encoders.spectrogram import SpectralFeatures
from polytask.encoders.token_pooling import TokenPool
from polytask.shapes import AudioShape


class CRNN(Encoder):
    """Convolutions over spectra, and recurrent units over time.

    Choi, Fazekas, Sandler and Cho, "Convolutional Recurrent Neural Networks for Music Classification", ICASSP 2017,
    https://arxiv.org/abs/1609.04243; with GRUs in both directions as in Cakir et al., IEEE/ACM TASLP 2017,
    https://arxiv.org/abs/1702.06286. Stages: `spectra` (see `AudioCNN`); `conv1`, `conv2`..., each a 3 x 3 convolution,
    batch normalisation, ReLU and max pooling, over two bands, and over two frames until there is one for `subsampling`;
    `frames`, all channels and bands of a frame side by side, as tokens; `layer1`, `layer2`..., `pool`.

    Args:
        width: Number of channels of the first convolution; each further one has twice as many.
        convolutions: Number of convolutions.
        dim: Number of features of a frame before the recurrent layers.
        hidden: Number of units of each direction; the result has twice as many features.
        depth: Number of recurrent layers.
        dropout: Probability of dropping a feature of a frame, and of each recurrent layer, while training.
        subsampling: How many frames become one: a power of two, at most one halving in each convolution.
        pooling: From frames to a vector: `"mean"` or `"max"` over time.
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
        convolutions: int = 3,
        dim: int = 128,
        hidden: int = 128,
        depth: int = 1,
        *,
        dropout: float = 0.2,
        subsampling: int = 4,
        pooling: Literal["mean", "max"] = "mean",
        features: SpectralFeatures = "log_mel",
        bands: int = 64,
        window: float = 0.025,
        hop: float = 0.01,
        spectrum: SpectrumNormalization = "dataset",
        mask_bands: int = 8,
        mask_time: float = 0.1,
        shape: FromData[AudioShape],
    ) -> None:
        at_least(1, width=width, convolutions=convolutions, dim=dim, hidden=hidden, depth=depth)
        dropout_rate(dropout=dropout)
        one_of(("mean", "max"), pooling=pooling)
        one_of(tuple(2**power for power in range(convolutions + 1)), subsampling=subsampling)
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
                multiple=subsampling,
            )
        }
        incoming, outgoing, left = shape.channels, width, bands
        for number in range(1, convolutions + 1):
            halved = 2 if left >= 2 else 1
            frames = 2 if 2**number <= subsampling else 1
            stages[f"conv{number}"] = AudioConvolution(incoming, outgoing, halved, frames, 0.0)
            incoming, outgoing, left = outgoing, 2 * outgoing, left // halved
        stages["frames"] = Frames(incoming, left, dim, dropout)
        for number in range(1, depth + 1):
            stages[f"layer{number}"] = BiGRULayer(dim if number == 1 else 2 * hidden, hidden, dropout)
        stages["pool"] = TokenPool(2 * hidden, pooling)
        super().__init__(stages)
