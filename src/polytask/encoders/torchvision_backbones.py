"""Backbones of torchvision."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polytask.components import FromData
from polytask.encoders.batch_norm import BatchNorm2d
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.images import DEFAULT_IMAGE, average_pool
from polytask.encoders.limits import at_least, one_of
from polytask.encoders.weights import adapt_channels, cannot_download, load_weights, read_weights
from polytask.errors import require
from polytask.features import FeatureShape
from polytask.shapes import ImageShape

logger = logging.getLogger("polytask")

_SMALL_IMAGE = 64


class ResNet(Encoder):
    """Residual network, from torchvision.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385. Stages:
    `stem`, `layer1` to `layer4`, `pool` (mean over all positions).

    Args:
        depth: Number of layers: 18, 34, 50, 101 or 152.
        pretrained: Weights to start from: true for torchvision's ImageNet weights, which are downloaded; or the path
            of a `.pth` or `.safetensors` file with torchvision's names. The classifier in it is left out. For grey
            images the first kernel is summed over the colours.
        stem: `"imagenet"`: 7 x 7 convolution of stride 2 and max pooling, as published; `"small"`: 3 x 3 convolution
            of stride 1 and no pooling, for small images; `"auto"`: `small` where a side has less than 64 pixels. The
            kernel of a small stem starts at random where the pretrained one is 7 x 7.
        shape: The images.

    Raises:
        UserError: A parameter is out of its limits, or the weights cannot be had.
        MissingExtra: torchvision is not installed.
    """

    modality = "image"

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152] = 18,
        pretrained: bool | str = False,
        stem: Literal["auto", "imagenet", "small"] = "auto",
        *,
        shape: FromData[ImageShape] = DEFAULT_IMAGE,
    ) -> None:
        one_of((18, 34, 50, 101, 152), depth=depth)
        one_of(("auto", "imagenet", "small"), stem=stem)
        at_least(1, channels=shape.channels, height=shape.height, width=shape.width)
        small = stem == "small" or (stem == "auto" and min(shape.height, shape.width) < _SMALL_IMAGE)
        models = require("torchvision.models", extra="vision", purpose="The encoder 'resnet'")
        model = models.get_model(f"resnet{depth}", weights=None, norm_layer=BatchNorm2d)
        if small or shape.channels != 3:
            size, stride = (3, 1) if small else (7, 2)
            model.conv1 = nn.Conv2d(shape.channels, 64, size, stride, padding=size // 2, bias=False)
            _start(model.conv1)
        if pretrained:
            _load(models, model, f"resnet{depth}", pretrained, first="conv1")
        stem_layers = [model.conv1, model.bn1, model.relu] + ([] if small else [model.maxpool])
        stride = 1 if small else 4
        stages = {"stem": Stage(nn.Sequential(*stem_layers), FeatureShape("map", 64, stride))}
        for number in range(1, 5):
            stride *= 1 if number == 1 else 2
            width = 64 * 2 ** (number - 1) * (1 if depth < 50 else 4)
            stages[f"layer{number}"] = Stage(getattr(model, f"layer{number}"), FeatureShape("map", width, stride))
        stages["pool"] = average_pool(width)
        super().__init__(stages)
        self.pretrained = bool(pretrained)

    def for_reload(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """See `Encoder.for_reload`: without the pretrained weights."""
        return {**parameters, "pretrained": False}


class VGG(Encoder):
    """Plain deep convolutional network, from torchvision.

    Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
    https://arxiv.org/abs/1409.1556. Stages: `block1` to `block5`, each ended by a max pooling, and `pool` (mean over
    all positions, in place of the published fully connected layers). In images of less than 32 pixels, the poolings
    that would leave nothing are left out.

    Args:
        depth: Number of layers: 11, 13, 16 or 19.
        batch_norm: Whether batch normalisation follows each convolution.
        pretrained: Weights to start from: true for torchvision's ImageNet weights, which are downloaded; or the path
            of a `.pth` or `.safetensors` file with torchvision's names. The classifier in it is left out. For grey
            images the first kernel is summed over the colours.
        shape: The images.

    Raises:
        UserError: A parameter is out of its limits, or the weights cannot be had.
        MissingExtra: torchvision is not installed.
    """

    modality = "image"

    def __init__(
        self,
        depth: Literal[11, 13, 16, 19] = 11,
        batch_norm: bool = True,
        pretrained: bool | str = False,
        *,
        shape: FromData[ImageShape] = DEFAULT_IMAGE,
    ) -> None:
        one_of((11, 13, 16, 19), depth=depth)
        at_least(1, channels=shape.channels, height=shape.height, width=shape.width)
        name = f"vgg{depth}_bn" if batch_norm else f"vgg{depth}"
        models = require("torchvision.models", extra="vision", purpose="The encoder 'vgg'")
        # The classifier has ten times the encoder's parameters: on the meta device it costs nothing to leave out.
        with torch.device("meta"):
            model = models.get_model(name, weights=None)
            model.classifier = nn.Identity()
            model.features[0] = nn.Conv2d(shape.channels, 64, 3, padding=1)
            for position, layer in enumerate(model.features):
                if isinstance(layer, nn.BatchNorm2d):
                    model.features[position] = BatchNorm2d(layer.num_features)
        _start(model.features.to_empty(device="cpu"))
        if pretrained:
            _load(models, model, name, pretrained, first="features.0")
        stages: dict[str, Stage] = {}
        side, width, stride, layers = min(shape.height, shape.width), shape.channels, 1, nn.Sequential()
        for layer in model.features:
            width = getattr(layer, "out_channels", width)
            if not isinstance(layer, nn.MaxPool2d):
                layers.append(layer)
                continue
            if side >= 2:
                layers.append(layer)
                stride *= 2
            side //= 2
            stages[f"block{len(stages) + 1}"] = Stage(layers, FeatureShape("map", width, stride))
            layers = nn.Sequential()
        stages["pool"] = average_pool(width)
        super().__init__(stages)
        self.pretrained = bool(pretrained)

    def for_reload(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """See `Encoder.for_reload`: without the pretrained weights."""
        return {**parameters, "pretrained": False}


def _start(features: nn.Module) -> None:
    """Initialise as torchvision does."""
    for layer in features.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _load(models: Any, model: nn.Module, name: str, pretrained: bool | str, first: str) -> None:
    source = pretrained if isinstance(pretrained, str) else f"torchvision's {name}"
    weights = read_weights(pretrained) if isinstance(pretrained, str) else _downloaded(models, name)
    kernel = f"{first}.weight"
    if kernel in weights:
        weights[kernel] = _fitted(weights[kernel], model.get_submodule(first))
    load_weights(model, weights, source, ignored=("fc.", "classifier."))


def _downloaded(models: Any, name: str) -> dict[str, Tensor]:
    weights = models.get_model_weights(name).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False))
    except (OSError, RuntimeError) as error:
        raise cannot_download(name, error, where=weights.url) from error


def _fitted(kernel: Tensor, convolution: Any) -> Tensor:
    own: Tensor = convolution.weight.detach()
    kernel = adapt_channels(kernel, own.shape[1])
    if kernel.shape[2:] == own.shape[2:]:
        return kernel
    logger.warning(
        "The pretrained stem has a kernel of %d x %d, the encoder's is %d x %d: it starts at random. "
        "With stem: imagenet it would start from the pretrained one.",
        *kernel.shape[2:],
        *own.shape[2:],
    )
    return own
