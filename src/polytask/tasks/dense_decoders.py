"""Decoders: from maps of several resolutions to one map of the finest of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.features import FeatureShape

_GROUP_CHANNELS = 8
_LOW_LEVEL_CHANNELS = 48
_RATES = (6, 12, 18)
_RATES_AT = 16
"""The stride at which the rates are those of the paper."""


class FPNDecoder(nn.Module):
    """Feature pyramid whose levels are added up at the finest resolution.

    Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, https://arxiv.org/abs/1612.03144, with the
    semantic branch of Kirillov, Girshick, He and Dollar, "Panoptic Feature Pyramid Networks", CVPR 2019,
    https://arxiv.org/abs/1901.02446; lighter than that: each level has one 3 x 3 convolution before it is enlarged.

    Args:
        shapes: The maps' shapes, the finest first.
        width: Channels.
    """

    def __init__(self, shapes: Sequence[FeatureShape], width: int) -> None:
        super().__init__()
        self.width = width
        self.laterals = nn.ModuleList(nn.Conv2d(shape.width, width, 1) for shape in shapes)
        self.smooth = nn.ModuleList(convolution(width, width) for _ in shapes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """`[B, C_i, H_i, W_i]`, the finest first, to `[B, width, H_0, W_0]`."""
        merged = [lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]
        for place in range(len(merged) - 2, -1, -1):
            merged[place] = merged[place] + F.interpolate(merged[place + 1], merged[place].shape[-2:], mode="nearest")
        total: Tensor = self.smooth[0](merged[0])
        for layers, each in zip(self.smooth[1:], merged[1:], strict=True):
            total = total + enlarged(layers(each), total)
        return total


class UNetDecoder(nn.Module):
    """Upwards step by step, each time beside the encoder's map of that resolution.

    Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
    https://arxiv.org/abs/1505.04597.

    Args:
        shapes: The maps' shapes, the finest first.
        width: Channels of a step at most; a step has no more than the encoder's map there, and 16 at least.
    """

    def __init__(self, shapes: Sequence[FeatureShape], width: int) -> None:
        super().__init__()
        *finer, last = shapes
        incoming, steps = last.width, []
        for shape in reversed(finer):
            outgoing = min(width, max(16, shape.width))
            steps.append(nn.Sequential(convolution(incoming + shape.width, outgoing), convolution(outgoing, outgoing)))
            incoming = outgoing
        self.steps = nn.ModuleList(steps if steps else [convolution(incoming, min(width, incoming))])
        self.width = incoming if steps else min(width, incoming)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """See `FPNDecoder.forward`; the result has as many channels as the finest step."""
        *finer, values = maps
        if not finer:
            return self.steps[0](values)  # type: ignore[no-any-return]
        for step, skip in zip(self.steps, reversed(finer), strict=True):
            values = step(torch.cat([enlarged(values, skip), skip], dim=1))
        return values


class DeepLabDecoder(nn.Module):
    """Several rates of dilation side by side on the coarsest map, then refined beside the finest one.

    Chen, Zhu, Papandreou, Schroff and Adam, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
    Segmentation", ECCV 2018, https://arxiv.org/abs/1802.02611 (DeepLabv3+), with separable convolutions. The rates 6,
    12 and 18 are for a map of stride 16 and follow its stride.

    Args:
        shapes: The maps' shapes, the finest first.
        width: Channels.
    """

    def __init__(self, shapes: Sequence[FeatureShape], width: int) -> None:
        super().__init__()
        self.width = width
        first, last = shapes[0], shapes[-1]
        rates = [max(1, round(rate * _RATES_AT / last.stride)) for rate in _RATES]
        self.branches = nn.ModuleList(
            [convolution(last.width, width, 1), *(_separable(last.width, width, rate) for rate in rates)]
        )
        self.whole = nn.Conv2d(last.width, width, 1)
        self.project = convolution(width * (len(rates) + 2), width, 1)
        self.low = convolution(first.width, _LOW_LEVEL_CHANNELS, 1) if len(shapes) > 1 else None
        extra = 0 if self.low is None else _LOW_LEVEL_CHANNELS
        self.refine = nn.Sequential(_separable(width + extra, width, 1), _separable(width, width, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """See `FPNDecoder.forward`."""
        first, last = maps[0], maps[-1]
        whole = F.relu(self.whole(last.mean((2, 3), keepdim=True))).expand(-1, -1, *last.shape[-2:])
        values = self.project(torch.cat([*(branch(last) for branch in self.branches), whole], dim=1))
        if self.low is not None:
            low = self.low(first)
            values = torch.cat([enlarged(values, low), low], dim=1)
        return self.refine(values)  # type: ignore[no-any-return]


def convolution(incoming: int, outgoing: int, size: int = 3) -> nn.Module:
    """A convolution, a normalisation of each image by itself, and a ReLU: what a row gets depends on no other row."""
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, size, padding=size // 2, bias=False), _norm(outgoing), nn.ReLU(inplace=True)
    )


def enlarged(values: Tensor, like: Tensor) -> Tensor:
    """A map at the resolution of another one."""
    if values.shape[-2:] == like.shape[-2:]:
        return values
    return F.interpolate(values, like.shape[-2:], mode="bilinear", align_corners=False)


def _separable(incoming: int, outgoing: int, rate: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(incoming, incoming, 3, padding=rate, dilation=rate, groups=incoming, bias=False),
        _norm(incoming),
        nn.ReLU(inplace=True),
        convolution(incoming, outgoing, 1),
    )


def _norm(channels: int) -> nn.Module:
    groups = max(1, channels // _GROUP_CHANNELS)
    return nn.GroupNorm(math.gcd(groups, channels), channels)
