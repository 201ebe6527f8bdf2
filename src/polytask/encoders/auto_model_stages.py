"""Cutting a text model of transformers into stages."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polytask.encoders.encoder import Stage
from polytask.encoders.token_embedding import marked
from polytask.features import Features, FeatureShape

logger = logging.getLogger("polytask")


def cut(model: Any, length: int) -> tuple[dict[str, Stage], int]:
    """The stages of a model, from ids to `tokens`, and their number of features.

    Args:
        model: A model of transformers. Its parts become the stages' parts.
        length: The greatest number of tokens of a text, on which the stages must agree with the model.
    """
    model.eval()
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    if "add_pooling_layer" in inspect.signature(type(model)).parameters:
        # Its result is not used, and its weights would get no gradient.
        model.pooler = None
    width = _run({"": _Backbone(model, width=0)}, _probe(model, 2)).shape[2]
    whole: dict[str, Stage] = {"backbone": _Backbone(model, width)}
    stages = _layered(model, width)
    # Some models change their ways for long texts, so that a short one proves nothing.
    if stages is not None and _agree(stages, whole, _probe(model, length)):
        return stages, width
    logger.info("The layers of a %s model cannot be told apart, so they are one stage.", model.config.model_type)
    return whole, width


def _probe(model: Any, length: int) -> dict[str, Tensor]:
    """Two texts, the second with its last token padded."""
    ids = torch.arange(2 * length).view(2, length) % model.config.vocab_size
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, -1] = length == 1
    return {"ids": ids, "mask": mask}


class _Backbone(Stage):
    """A whole model."""

    def __init__(self, model: Any, width: int) -> None:
        super().__init__(model, FeatureShape("tokens", width))
        self.padding = model.config.pad_token_id
        self.marks_texts = _marks_texts(model)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        ids, mask = _clean_ids(inputs, self.padding), inputs["mask"]
        texts = _text_numbers(inputs) if self.marks_texts else {}
        output = self.module(input_ids=ids, attention_mask=mask.long(), **texts)
        return marked(Features(output.last_hidden_state, mask), inputs)


class _Embed(Stage):
    """A model up to its layers."""

    def __init__(self, embeddings: nn.Module, width: int, padding: int | None, marks_texts: bool) -> None:
        super().__init__(embeddings, FeatureShape("tokens", width))
        self.padding, self.marks_texts = padding, marks_texts

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        texts = _text_numbers(inputs) if self.marks_texts else {}
        first, *others = self.module if isinstance(self.module, nn.Sequential) else [self.module]
        values = first(_clean_ids(inputs, self.padding), **texts)
        for layer in others:
            values = layer(values)
        return marked(Features(values, inputs["mask"]), inputs)


class ModelLayer(Stage):
    """A layer of a model of transformers, which attends to tokens that are not masked.

    Args:
        layer: Reads features `[B, T, width]` and what may be attended to, `[B, 1, T, T]`.
        width: Number of features of a token.
        additive: Whether the latter are numbers to add to attention's logits; else they are true or false.
    """

    def __init__(self, layer: nn.Module, width: int, additive: bool) -> None:
        super().__init__(layer, FeatureShape("tokens", width))
        self.additive = additive

    def forward(self, features: Features) -> Features:
        """`[B, T, width]` with a mask `[B, T]` to the same."""
        values, mask = features.values, features.mask
        assert mask is not None
        allowed = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        if self.additive:
            allowed = torch.zeros_like(allowed, dtype=values.dtype).masked_fill(~allowed, torch.finfo(values.dtype).min)
        output = self.module(values, allowed)
        return features._replace(values=output[0] if isinstance(output, tuple) else output)


def _marks_texts(model: Any) -> bool:
    """Whether a model has embeddings that tell a pair's two texts apart."""
    return (getattr(model.config, "type_vocab_size", None) or 0) > 1


def _text_numbers(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which token is of which of two texts, as models call it."""
    return {"token_type_ids": inputs["segments"]} if "segments" in inputs else {}


def _clean_ids(inputs: Mapping[str, Tensor], padding: int | None) -> Tensor:
    """The ids with the model's own padding, from which some models count their positions."""
    ids, mask = inputs["ids"], inputs["mask"]
    return ids if padding is None else ids.masked_fill(~mask, padding)


def _layered(model: Any, width: int) -> dict[str, Stage] | None:
    """Embeddings and layers, where the model is built as BERT or DistilBERT is, and has nothing besides."""
    body = getattr(model, "encoder", None) or getattr(model, "transformer", None)
    layers, embeddings = getattr(body, "layer", None), getattr(model, "embeddings", None)
    implementation = getattr(model.config, "_attn_implementation", None)
    if layers is None or embeddings is None or implementation not in ("sdpa", "eager"):
        return None
    project = getattr(model, "embeddings_project", None)
    if project is not None:
        embeddings = nn.Sequential(embeddings, project)
    stages: dict[str, Stage] = {"embed": _Embed(embeddings, width, model.config.pad_token_id, _marks_texts(model))}
    for number, layer in enumerate(layers, start=1):
        stages[f"layer{number}"] = ModelLayer(layer, width, additive=implementation == "eager")
    parameters = [parameter for stage in stages.values() for parameter in stage.parameters()]
    return stages if len(parameters) == len(list(model.parameters())) else None


def _agree(stages: Mapping[str, Stage], whole: Mapping[str, Stage], probe: Mapping[str, Tensor]) -> bool:
    try:
        values = _run(stages, probe)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        # These layers want more than values and a mask.
        return False
    real = probe["mask"]
    return torch.allclose(values[real], _run(whole, probe)[real], rtol=1e-3, atol=1e-5)


@torch.no_grad()
def _run(stages: Mapping[str, Stage], probe: Mapping[str, Tensor]) -> Tensor:
    features: Any = probe
    for stage in stages.values():
        features = stage(features)
    return features.values  # type: ignore[no-any-return]
