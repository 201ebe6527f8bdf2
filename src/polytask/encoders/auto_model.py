"""Any text model of transformers, cut into stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from polytask.components import FromData
from polytask.encoders.auto_model_stages import cut
from polytask.encoders.encoder import Encoder
from polytask.encoders.limits import one_of
from polytask.encoders.token_embedding import refuse_weights
from polytask.encoders.token_pooling import TokenPool
from polytask.encoders.weights import in_short
from polytask.errors import UserError, require
from polytask.shapes import TextShape


class AutoModel(Encoder):
    """Any text model of transformers (https://huggingface.co/docs/transformers), without its head.

    Stages: models built as BERT is (BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT...) have `embed`, `layer1`,
    `layer2`..., `pool`; the others have `backbone` and `pool`, so that tasks can share the whole model or nothing.
    Which it is, is found by running the model on two texts: layers become stages only where, one after the other,
    they compute what the model itself computes. Of models with an encoder and a decoder, the encoder is taken.

    Args:
        name_or_path: A folder with a model, or the name of a model on the Hugging Face hub. The text input must use
            the same model's tokenizer.
        pretrained: Whether to start from the model's weights; false takes its architecture alone.
        pooling: From tokens to a vector: `"mean"` over the text, `"cls"`, its first token, or `"last"`, its last token,
            for models that read from left to right. Of a pair of texts, `"mean"` compares the two:
            `[u, v, |u - v|, u * v]` of either's mean.
        architecture: The model's configuration, as `for_reload` gives it. Where it is given, `name_or_path` is not
            looked at and the weights start at random.
        shape: The texts.

    Raises:
        UserError: The model cannot be had, does not read text, or is too small for the texts.
        MissingExtra: transformers is not installed.
    """

    modality = "text"

    def __init__(
        self,
        name_or_path: str,
        pretrained: bool = True,
        pooling: Literal["mean", "cls", "last"] = "mean",
        *,
        architecture: FromData[Mapping[str, Any] | None] = None,
        shape: FromData[TextShape],
    ) -> None:
        one_of(("mean", "cls", "last"), pooling=pooling)
        model = build_model(name_or_path, pretrained, architecture, extra="text", encoder="auto_model")
        _check_texts(model, name_or_path, shape)
        self._architecture = json.loads(model.config.to_json_string(use_diff=False))
        # Where the model was found is of no use to another machine.
        self._architecture.pop("_name_or_path", None)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        try:
            stages, width = cut(model, shape.length)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"'{name_or_path}' ({model.config.model_type}) cannot encode text: {in_short(error)}"
            ) from error
        stages["pool"] = TokenPool(width, "first" if pooling == "cls" else pooling, segments=shape.segments)
        super().__init__(stages)
        self.pretrained = pretrained
        # transformers returns its models in evaluation mode, where dropout is off.
        self.train()

    def for_reload(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """See `Encoder.for_reload`: with the model's configuration in place of its folder."""
        return {**parameters, "pretrained": False, "architecture": self._architecture}


def build_model(
    name: str, pretrained: bool, architecture: Mapping[str, Any] | None, *, extra: str, encoder: str
) -> Any:
    """A model of transformers, with float32 weights.

    Args:
        name: A folder with a model, or the name of a model on the Hugging Face hub.
        pretrained: Whether it has the weights found there.
        architecture: Its configuration; where it is given, `name` is not looked at and the weights are random.
        extra: The extra that brings transformers.
        encoder: What asks for it.

    Raises:
        UserError: The model cannot be had.
        MissingExtra: transformers is not installed.
    """
    transformers = require("transformers", extra=extra, purpose=f"The encoder '{encoder}'")
    # Trained weights are often stored in half precision; training starts from float32, and autocast does the rest.
    dtype = torch.float32
    try:
        if architecture is None and pretrained:
            return transformers.AutoModel.from_pretrained(name, dtype=dtype)
        if architecture is None:
            config = transformers.AutoConfig.from_pretrained(name)
        else:
            config = transformers.AutoConfig.for_model(**architecture)
        return transformers.AutoModel.from_config(config, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"transformers cannot load '{name}': {in_short(error)} Give a folder that holds a model (config.json and "
            "model.safetensors), or the name of a model on https://huggingface.co that this machine can reach."
        ) from error


def _check_texts(model: Any, name: str, shape: TextShape) -> None:
    refuse_weights(shape)
    if shape.parts > 1:
        raise UserError(
            f"The text input gives each token {shape.parts} ids (affixes), but '{name}' reads one. Leave affixes out, "
            f"and use the model's own tokenizer: tokenizer: {name}"
        )
    known = model.get_input_embeddings()
    if isinstance(known, nn.Embedding) and shape.vocabulary > known.num_embeddings:
        raise UserError(
            f"The text input makes {shape.vocabulary} different ids, but '{name}' knows {known.num_embeddings}. "
            f"Use the model's own tokenizer in the text input: tokenizer: {name}"
        )
    longest = _longest(model)
    if longest is not None and shape.length > longest:
        raise UserError(
            f"The text input makes up to {shape.length} tokens of a text, but '{name}' reads at most {longest}. "
            f"Set the text input's length to {longest} or less."
        )


def _longest(model: Any) -> int | None:
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(positions, nn.Embedding):
        # RoBERTa and its kin count positions from after the padding's id.
        return positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None)
