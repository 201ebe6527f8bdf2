"""A small network of a task's own behind a stage, which at first changes nothing."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import FeatureShape
from polytask.sharing.pointwise import pointwise


class Bottleneck(nn.Module):
    """`h + up(dropout(gelu(down(h))))` at each position; `up` starts at zero.

    Args:
        shape: The features.
        width: Number of features between `down` and `up`.
        dropout: Probability of dropping one of these while training.
    """

    def __init__(self, shape: FeatureShape, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = pointwise(shape, width)
        self.up = pointwise(FeatureShape(shape.kind, width), shape.width)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, values: Tensor) -> Tensor:
        """Features of the shape to such features."""
        return values + self.up(self.dropout(F.gelu(self.down(values))))  # type: ignore[no-any-return]
