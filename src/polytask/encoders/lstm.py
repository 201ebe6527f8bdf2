"""Recurrent network over time series."""

from __future__ import annotations

from typing import Literal

from torch import nn

from polytask.components import FromData
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.encoders.recurrent import LastStates, RecurrentLayer
from polytask.encoders.series_embedding import SeriesEmbedding
from polytask.encoders.token_pooling import TokenPool
from polytask.shapes import SequenceShape


class LSTM(Encoder):
    """Long short-term memory, or gated recurrent units, over the steps of a time series.

    Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 1997; Cho et al., "Learning Phrase
    Representations using RNN Encoder-Decoder", EMNLP 2014, https://arxiv.org/abs/1406.1078. Stages: `embed` (a linear
    map of each step), `layer1`, `layer2`..., `pool`.

    Args:
        dim: Number of features of a step after the linear map.
        hidden: Number of units of each direction.
        depth: Number of layers.
        dropout: Probability of dropping a feature after the linear map and after each layer, while training.
        cell: `"lstm"` or `"gru"`.
        bidirectional: Whether each layer reads the series in both directions; the result then has twice as many
            features.
        pooling: From steps to a vector: `"last"`, the last state of either direction, or the `"mean"` or `"max"` over
            time.
        shape: The series.

    Raises:
        UserError: A parameter is out of its limits.
    """

    modality = "sequence"

    def __init__(
        self,
        dim: int = 64,
        hidden: int = 128,
        depth: int = 1,
        dropout: float = 0.1,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        bidirectional: bool = False,
        pooling: Literal["last", "mean", "max"] = "last",
        shape: FromData[SequenceShape],
    ) -> None:
        at_least(1, dim=dim, hidden=hidden, depth=depth)
        dropout_rate(dropout=dropout)
        one_of(("lstm", "gru"), cell=cell)
        one_of(("last", "mean", "max"), pooling=pooling)
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        width = 2 * hidden if bidirectional else hidden
        stages: dict[str, Stage] = {"embed": SeriesEmbedding(shape, dim, dropout)}
        for number in range(1, depth + 1):
            recurrent = kind(dim if number == 1 else width, hidden, batch_first=True, bidirectional=bidirectional)
            stages[f"layer{number}"] = RecurrentLayer(recurrent, dropout)
        stages["pool"] = (
            LastStates(hidden, bidirectional=bidirectional) if pooling == "last" else TokenPool(width, pooling)
        )
        super().__init__(stages)
