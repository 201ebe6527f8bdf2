"""Any image network of timm, cut into stages."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from polytask.components import FromData
from polytask.encoders.encoder import Encoder
from polytask.encoders.images import DEFAULT_IMAGE, in_words
from polytask.encoders.limits import at_least
from polytask.encoders.timm_stages import cut
from polytask.encoders.weights import cannot_download, in_short, read_weights, tell_mismatch
from polytask.errors import UserError, closest, require
from polytask.shapes import ImageShape


class Timm(Encoder):
    """Any image network of timm (https://github.com/huggingface/pytorch-image-models), its classifier taken off.

    Stages: networks that are a plain sequence (most convolutional ones, Swin, ConvNeXt, MLP-Mixer...) have `stem`,
    then `block1`, `block2`... as timm's feature information divides them, then `pool`; Vision Transformers have
    `embed`, a `block` each, `pool`. The others have `backbone` and `pool`, so that tasks can share the whole backbone
    or nothing. Which it is, is found by running the network on one random image: stages are made only where, one after
    the other, they compute what the network itself computes.

    Args:
        name: The network's name in timm, for example `"efficientnet_b0"` or `"vit_small_patch16_224.augreg_in21k"`.
        pretrained: Weights to start from: true for timm's own, which are downloaded; or the path of a `.pth` or
            `.safetensors` file with timm's names. The classifier in it is left out. For grey images the first kernel
            is summed over the colours.
        shape: The images. Networks made for one size of image are built for this size.

    Raises:
        UserError: timm has no such network, it cannot read such images, or the weights cannot be had.
        MissingExtra: timm is not installed.
    """

    modality = "image"

    def __init__(
        self, name: str, pretrained: bool | str = False, *, shape: FromData[ImageShape] = DEFAULT_IMAGE
    ) -> None:
        at_least(1, channels=shape.channels, height=shape.height, width=shape.width)
        timm = require("timm", extra="vision", purpose="The encoder 'timm'")
        if not timm.is_model(name):
            raise UserError(
                f"timm {timm.__version__} has no network '{name}'.{closest(name, timm.list_models())} "
                "Its names are at https://huggingface.co/timm and in timm.list_models()."
            )
        model = _build(timm, name, download=pretrained is True, shape=shape)
        if isinstance(pretrained, str):
            _load(timm, model, pretrained, shape.channels)
        image = torch.rand(1, shape.channels, shape.height, shape.width, generator=torch.Generator().manual_seed(0))
        try:
            stages = cut(model, image)
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            raise UserError(
                f"timm's '{name}' cannot read {in_words(shape)}: {in_short(error)} "
                "Choose larger images, or another network."
            ) from error
        super().__init__(stages)
        self.pretrained = bool(pretrained)
        self.train()

    def for_reload(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """See `Encoder.for_reload`: without the pretrained weights."""
        return {**parameters, "pretrained": False}


def _build(timm: Any, name: str, download: bool, shape: ImageShape) -> nn.Module:
    fixed = timm.get_pretrained_cfg_value(name, "fixed_input_size")
    size = {"img_size": (shape.height, shape.width)} if fixed else {}
    try:
        return timm.create_model(name, pretrained=download, num_classes=0, in_chans=shape.channels, **size)  # type: ignore[no-any-return]
    except (AssertionError, RuntimeError, TypeError, ValueError, OSError) as error:
        if download:
            # Where the network itself cannot be built, this says so.
            _build(timm, name, download=False, shape=shape)
            raise cannot_download(name, error, where=f"https://huggingface.co/timm/{name}") from error
        raise UserError(f"timm cannot build '{name}' for {in_words(shape)}: {in_short(error)}") from error


def _load(timm: Any, model: Any, path: str, channels: int) -> None:
    keys: list[Any] = []
    hook = model.register_load_state_dict_post_hook(lambda _, found: keys.extend(found))
    # Networks that changed their names over time translate old ones by a function of this name, in the same module.
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    known = [*model.state_dict()]
    source = {**model.pretrained_cfg, "state_dict": read_weights(path)}
    try:
        timm.models.load_pretrained(
            model, pretrained_cfg=source, num_classes=0, in_chans=channels, filter_fn=translate, strict=False
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"'{path}' does not fit the network: {in_short(error)}") from error
    finally:
        hook.remove()
    missing, unexpected = keys
    tell_mismatch(known, missing, unexpected, source=path)
