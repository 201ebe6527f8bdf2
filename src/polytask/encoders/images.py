"""What image encoders have in common."""

from __future__ import annotations

from torch import nn

from polytask.encoders.encoder import Stage
from polytask.features import FeatureShape
from polytask.shapes import ImageShape

DEFAULT_IMAGE = ImageShape()


def in_words(shape: ImageShape) -> str:
    """For messages: `"images of 32 x 32 pixels and 3 channels"`."""
    channels = "1 channel" if shape.channels == 1 else f"{shape.channels} channels"
    return f"images of {shape.height} x {shape.width} pixels and {channels}"


def average_pool(width: int) -> Stage:
    """The mean over all positions of a map of `width` channels: a `vector`."""
    return Stage(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), FeatureShape("vector", width))
