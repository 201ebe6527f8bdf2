"""Dilated convolutions over time series."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.initialization import he_init
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.encoders.series_embedding import SeriesEmbedding
from polytask.encoders.token_pooling import TokenPool
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.shapes import SequenceShape


class TCN(Encoder):
    """Temporal convolutional network: residual blocks of dilated convolutions over time.

    Bai, Kolter and Koltun, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
    Modeling", 2018, https://arxiv.org/abs/1803.01271. Block i has two convolutions whose taps are 2^(i - 1) steps
    apart, each with normalisation, ReLU and dropout, and adds its input to the result; all blocks together see
    `1 + 2 (kernel - 1) (2^depth - 1)` steps. Where the paper normalises weights, here the features of each step are
    normalised (layer normalisation). Stages: `embed` (a linear map of each step), `block1`, `block2`..., `pool`.

    Args:
        dim: Number of features of a step.
        depth: Number of blocks.
        kernel: Number of taps of a convolution; odd, unless `causal`.
        dropout: Probability of dropping a feature after each convolution while training.
        causal: Whether a step sees the steps before it alone, as in the paper; else as many after as before it.
        normalization: Of each step, after a convolution: `"layer"` or `"none"`.
        pooling: From steps to a vector: the `"mean"` or `"max"` over time, or the `"last"` step.
        shape: The series.

    Raises:
        UserError: A parameter is out of its limits.
    """

    modality = "sequence"

    def __init__(
        self,
        dim: int = 64,
        depth: int = 4,
        kernel: int = 5,
        dropout: float = 0.1,
        *,
        causal: bool = True,
        normalization: Literal["layer", "none"] = "layer",
        pooling: Literal["mean", "max", "last"] = "mean",
        shape: FromData[SequenceShape],
    ) -> None:
        at_least(1, dim=dim, depth=depth)
        at_least(2, kernel=kernel)
        dropout_rate(dropout=dropout)
        one_of(("layer", "none"), normalization=normalization)
        one_of(("mean", "max", "last"), pooling=pooling)
        if not causal and kernel % 2 == 0:
            raise UserError(
                f"'kernel' must be odd where a step sees as many after as before it (causal: false), but {kernel} was "
                "given."
            )
        stages: dict[str, Stage] = {"embed": SeriesEmbedding(shape, dim, dropout=0.0)}
        for number in range(1, depth + 1):
            stages[f"block{number}"] = _Block(
                dim, kernel, 2 ** (number - 1), dropout, causal=causal, normalized=normalization == "layer"
            )
        stages["pool"] = TokenPool(dim, pooling)
        super().__init__(stages)


class _Block(Stage):
    module: nn.ModuleList

    def __init__(self, dim: int, kernel: int, dilation: int, dropout: float, *, causal: bool, normalized: bool) -> None:
        convolutions = nn.ModuleList(nn.Conv1d(dim, dim, kernel, dilation=dilation) for _ in range(2))
        he_init(convolutions)
        super().__init__(convolutions, FeatureShape("tokens", dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) if normalized else nn.Identity() for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        reach = (kernel - 1) * dilation
        self.around = (reach, 0) if causal else (reach // 2, reach // 2)

    def forward(self, features: Features) -> Features:
        """`[B, T, dim]` to `[B, T, dim]`; there are zeros where a series has no steps."""
        values, mask = features.values, features.mask
        inner = values
        for convolution, norm in zip(self.module, self.norms, strict=True):
            inner = self.dropout(F.relu(norm(self._convolved(convolution, inner, mask))))
        return features._replace(values=F.relu(values + inner))

    def _convolved(self, convolution: nn.Module, values: Tensor, mask: Tensor | None) -> Tensor:
        known = values if mask is None else values.masked_fill(~mask.unsqueeze(2), 0.0)
        found: Tensor = convolution(F.pad(known.transpose(1, 2), self.around))
        return found.transpose(1, 2)
