"""Linear maps at each position, for features of every kind."""

from __future__ import annotations

from torch import nn

from polytask.encoders import FeatureShape


def pointwise(shape: FeatureShape, width: int, *, bias: bool = True) -> nn.Module:
    """A linear map of the features at each position: a fully connected layer, or a 1 x 1 convolution on maps."""
    if shape.kind == "map":
        return nn.Conv2d(shape.width, width, 1, bias=bias)
    return nn.Linear(shape.width, width, bias=bias)
