"""Cutting a network of timm into stages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polytask.encoders.encoder import Stage
from polytask.encoders.module_parts import part_of
from polytask.features import Features, FeatureShape


def cut(model: nn.Module, image: Tensor) -> dict[str, Stage]:
    """The stages of a network, as many as can be told apart.

    A way to cut it counts only where its stages, one after the other, compute what the network itself does.

    Args:
        model: A network of timm without its classifier. Its layers become the stages' layers.
        image: One image, `[1, C, H, W]`, to run the network on.
    """
    model.eval()
    for layer in model.modules():
        # Tasks may part before any stage, and then they share its input: no stage may change it.
        if getattr(layer, "inplace", False) is True:
            layer.inplace = False  # type: ignore[assignment]
    with torch.no_grad():
        expected = model(image)
        vector = FeatureShape("vector", expected.shape[1])
        for way in (_vision_transformer, _sequence, _backbone):
            stages = way(model, image, vector)
            if stages is not None and torch.allclose(_run(stages, image), expected, rtol=1e-3, atol=1e-5):
                return stages
    return {"backbone": Stage(model, vector)}


def _run(stages: Mapping[str, Stage], image: Tensor) -> Tensor:
    features = Features(image)
    for stage in stages.values():
        features = stage(features)
    return features.values


def _vision_transformer(model: Any, image: Tensor, vector: FeatureShape) -> dict[str, Stage] | None:
    from timm.models import VisionTransformer

    if type(model).forward_features is not VisionTransformer.forward_features:
        return None
    last = {"norm", "attn_pool", "fc_norm", "head_drop", "head", "head_dist"}
    embed = _Embed(part_of(model, _members(model) - last - {"blocks"}))
    head = _Head([model.norm], part_of(model, last - {"norm"}))
    grid, patch = tuple(model.patch_embed.grid_size), model.patch_embed.patch_size
    square = patch[0] == patch[1] and (grid[0] * patch[0], grid[1] * patch[1]) == tuple(image.shape[2:])
    tokens = FeatureShape(
        "tokens",
        model.embed_dim,
        patch[0] if square else 1,
        grid=grid if square else None,
        prefix=model.num_prefix_tokens if square else 0,
    )
    stages = {"embed": Stage(embed, tokens)}
    stages |= {f"block{number}": Stage(block, tokens) for number, block in enumerate(model.blocks, start=1)}
    return stages | {"pool": Stage(head, vector)}


def _sequence(model: Any, image: Tensor, vector: FeatureShape) -> dict[str, Stage] | None:
    borders = _borders(model)
    layers = _layers(model, borders)
    calls, features, head_calls = _trace(model, image, layers)
    paths = [call.path for call in calls]
    linked = [image, *(call.output for call in calls)]
    plain = all(call.argument is before for call, before in zip(calls, linked, strict=False)) and features is linked[-1]
    if not (borders and plain) or len({*paths}) < len(paths) or {*paths} & {call.path for call in head_calls}:
        return None
    *groups, after = _groups(paths, borders)
    outputs = {call.path: call.output for call in calls}
    last = _channels_last(model, features)
    stages: dict[str, Stage] = {}
    unflip: list[nn.Module] = []
    for number, group in enumerate(groups):
        output = outputs[group[-1]]
        flipped = last and output.ndim == 4
        parts = [*unflip, *(layers[path] for path in group), *([_Permute(0, 3, 1, 2)] if flipped else [])]
        unflip = [_Permute(0, 2, 3, 1)] if flipped else []
        stages[f"block{number}" if number else "stem"] = Stage(nn.Sequential(*parts), _shape(output, image, flipped))
    head = part_of(model, _members(model) - {path.partition(".")[0] for path in paths})
    return stages | {"pool": Stage(_Head([*unflip, *(layers[path] for path in after)], head), vector)}


def _backbone(model: Any, image: Tensor, vector: FeatureShape) -> dict[str, Stage] | None:
    calls, features, head_calls = _trace(model, image, dict(model.named_children()))
    used, used_by_head = {call.path for call in calls}, {call.path for call in head_calls}
    if not isinstance(features, Tensor) or features.ndim not in (3, 4) or used & used_by_head:
        return None
    flipped = features.ndim == 4 and _channels_last(model, features)
    to_second, to_last = ([_Permute(0, 3, 1, 2)], [_Permute(0, 2, 3, 1)]) if flipped else ([], [])
    backbone = nn.Sequential(_Features(part_of(model, _members(model) - used_by_head)), *to_second)
    head = _Head(to_last, part_of(model, used_by_head))
    return {"backbone": Stage(backbone, _shape(features, image, flipped)), "pool": Stage(head, vector)}


class _Embed(nn.Module):
    """A Vision Transformer up to its blocks."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.model.patch_drop(self.model._pos_embed(self.model.patch_embed(image)))
        return self.model.norm_pre(tokens)  # type: ignore[no-any-return]


class _Features(nn.Module):
    """A network up to its pooling."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.forward_features(image)  # type: ignore[no-any-return]


class _Head(nn.Module):
    """Some last layers, then a network's pooling."""

    def __init__(self, layers: Sequence[nn.Module], model: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.model = model

    def forward(self, values: Tensor) -> Tensor:
        return self.model.forward_head(self.layers(values))  # type: ignore[no-any-return]


class _Permute(nn.Module):
    """Moves the channels to second place, or to the last."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, values: Tensor) -> Tensor:
        return values.permute(self.order)


class _Call(NamedTuple):
    """A layer that ran: its only argument (None if there were more) and what it returned."""

    path: str
    argument: Any
    output: Any


def _trace(model: Any, image: Tensor, layers: Mapping[str, nn.Module]) -> tuple[list[_Call], Any, list[_Call]]:
    """The calls of `layers` that make the features, the features, and the calls that pool them."""
    calls: list[_Call] = []

    def record(path: str) -> Any:
        return lambda _, given, output: calls.append(_Call(path, given[0] if len(given) == 1 else None, output))

    hooks = [layer.register_forward_hook(record(path)) for path, layer in layers.items()]
    features = model.forward_features(image)
    made = len(calls)
    model.forward_head(features)
    for hook in hooks:
        hook.remove()
    return calls[:made], features, calls[made:]


def _borders(model: Any) -> list[str]:
    """The layers after which timm takes features."""
    information = getattr(model, "feature_info", None) or []
    return [entry["module"] for entry in getattr(information, "info", information)]


def _layers(model: nn.Module, borders: Sequence[str]) -> dict[str, nn.Module]:
    """The model's children by path; a sequence that has several borders inside counts as its own children."""
    layers: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        inside = sum(border.startswith(f"{name}.") for border in borders)
        if isinstance(child, nn.Sequential) and inside > 1:
            layers |= {f"{name}.{key}": layer for key, layer in child.named_children()}
        else:
            layers[name] = child
    return layers


def _groups(paths: Sequence[str], borders: Collection[str]) -> list[list[str]]:
    """The layers up to each border, and at the end those after all borders (perhaps none)."""
    groups: list[list[str]] = [[]]
    for path in paths:
        groups[-1].append(path)
        if any(border == path or border.startswith(f"{path}.") for border in borders):
            groups.append([])
    first = groups[0]
    if "." in first[-1] and first[0].partition(".")[0] != first[-1].partition(".")[0]:
        # The stem has no features of its own in timm: it is what lies before the first block.
        groups[:1] = [first[:-1], first[-1:]]
    return groups


def _members(model: nn.Module) -> set[str]:
    return {*model._modules, *model._parameters, *model._buffers}


def _channels_last(model: Any, features: Tensor) -> bool:
    if getattr(model, "output_fmt", None) == "NHWC":
        return True
    return bool(features.shape[1] != model.num_features == features.shape[-1])


def _shape(output: Tensor, image: Tensor, flipped: bool) -> FeatureShape:
    if output.ndim == 4:
        width, height = (output.shape[-1], output.shape[1]) if flipped else (output.shape[1], output.shape[2])
        return FeatureShape("map", width, round(image.shape[2] / height))
    return FeatureShape("tokens", output.shape[-1])
