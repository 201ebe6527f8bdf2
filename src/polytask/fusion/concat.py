"""Vectors side by side."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from polytask.encoders import Encoder, Stage
from polytask.encoders.initialization import he_init
from polytask.encoders.limits import at_least, dropout_rate
from polytask.features import FeatureShape
from polytask.fusion.fusion import Fusion
from polytask.fusion.modalities import ModalityEncoders, VectorsSideBySide


class Concat(Fusion):
    """The encoders' vectors side by side, and layers over them.

    In place of the vector of an input that a row lacks stands a learned one, which is 0 at first: `[x_1, m_2, x_3]`.
    Then layers `x -> dropout(relu(W x + b))` follow. Early fusion as surveyed by Baltrusaitis, Ahuja and Morency,
    "Multimodal Machine Learning: A Survey and Taxonomy", TPAMI 2019, https://arxiv.org/abs/1705.09406. Stages:
    `encoders`, `layer1`, `layer2`...

    Args:
        width: Number of units of each layer.
        depth: Number of layers; 0: the heads read the vectors side by side.
        dropout: Probability of dropping a unit's output while training.
        drop: Probability of hiding an input from a row that has several, while training, so that the network learns to
            do without; at least one stays.

    Raises:
        UserError: A parameter is out of its limits.
    """

    def __init__(self, width: int = 256, depth: int = 1, *, dropout: float = 0.0, drop: float = 0.0) -> None:
        super().__init__(drop)
        at_least(1, width=width)
        at_least(0, depth=depth)
        dropout_rate(dropout=dropout)
        self.width = width
        self.depth = depth
        self.dropout = dropout

    def stages(self, encoders: Mapping[str, Encoder]) -> tuple[ModalityEncoders, dict[str, Stage]]:
        """See `Fusion.stages`."""
        first = VectorsSideBySide(encoders)
        behind: dict[str, Stage] = {}
        size = first.shape.width
        for number in range(1, self.depth + 1):
            layer = nn.Sequential(nn.Linear(size, self.width), nn.ReLU(), nn.Dropout(self.dropout))
            he_init(layer)
            behind[f"layer{number}"] = Stage(layer, FeatureShape("vector", self.width))
            size = self.width
        return first, behind
