"""Any speech model of transformers, cut into stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from polytask.components import FromData
from polytask.encoders.auto_model import build_model
from polytask.encoders.encoder import Encoder
from polytask.encoders.limits import one_of
from polytask.encoders.speech_model_stages import cut
from polytask.encoders.token_pooling import TokenPool
from polytask.encoders.weights import in_short
from polytask.errors import UserError, require
from polytask.shapes import AudioShape

_USUAL_RATE = 16_000


class SpeechModel(Encoder):
    """Any speech model of transformers that reads samples, and Whisper's encoder (https://huggingface.co/docs/transformers).

    wav2vec 2.0 (Baevski et al., NeurIPS 2020), HuBERT (Hsu et al., IEEE/ACM TASLP 2021), data2vec and their kin have
    the stages `features`, `layer1`, `layer2`..., `pool`, and so has the encoder of Whisper (Radford et al., ICML
    2023). Those whose layers cannot be told apart, such as WavLM (Chen et al., 2022), have `features`, `backbone` and
    `pool`, or `backbone` and `pool`. Which it is, is found by running the model: a way to cut it counts only where its
    stages compute what the model itself does.

    Other than in the models' own code, padding changes nothing: a normalisation over time of the first layer's output
    does not see it, and Whisper does not attend to it, nor computes 30 s where the batch is shorter. The models' own
    masking in training, and their leaving out of layers, are off.

    Args:
        name_or_path: A folder with a model, or the name of a model on the Hugging Face hub.
        pretrained: Whether to start from the model's weights; false takes its architecture alone.
        pooling: From frames to a vector: `"mean"` or `"max"` over time.
        normalize: Whether each recording gets mean 0 and deviation 1 before; None: what the model's files say, and yes
            where they say nothing. Whisper does not use it.
        architecture: The model's configuration, as `for_reload` gives it. Where it is given, `name_or_path` is not
            looked at and the weights start at random.
        shape: The recordings.

    Raises:
        UserError: The model cannot be had, does not read recordings, or reads others than these.
        MissingExtra: transformers is not installed.
    """

    modality = "audio"

    def __init__(
        self,
        name_or_path: str,
        pretrained: bool = True,
        pooling: Literal["mean", "max"] = "mean",
        *,
        normalize: bool | None = None,
        architecture: FromData[Mapping[str, Any] | None] = None,
        shape: FromData[AudioShape],
    ) -> None:
        one_of(("mean", "max"), pooling=pooling)
        model = build_model(name_or_path, pretrained, architecture, extra="audio", encoder="speech_model")
        described = {} if architecture is not None else _description(name_or_path)
        if normalize is None:
            normalize = bool(described.get("do_normalize", True))
        _check_recordings(name_or_path, shape, described.get("sampling_rate", _USUAL_RATE) if pretrained else None)
        self._normalize = normalize
        self._architecture = json.loads(model.config.to_json_string(use_diff=False))
        # Where the model was found is of no use to another machine.
        self._architecture.pop("_name_or_path", None)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        try:
            stages, width, norm = cut(model, shape, normalize)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"'{name_or_path}' ({model.config.model_type}) cannot encode recordings: {in_short(error)} Use a model "
                "that reads samples, such as wav2vec2, hubert or wavlm, or Whisper."
            ) from error
        stages["pool"] = TokenPool(width, pooling, norm)
        super().__init__(stages)
        self.pretrained = pretrained
        # transformers returns its models in evaluation mode, where dropout is off.
        self.train()

    def for_reload(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """See `Encoder.for_reload`: with the model's configuration in place of its folder."""
        return {
            **parameters,
            "pretrained": False,
            "normalize": self._normalize,
            "architecture": self._architecture,
        }


def _description(name: str) -> dict[str, Any]:
    """What the model's files say of the recordings it reads; nothing where they say nothing."""
    transformers = require("transformers", extra="audio", purpose="The encoder 'speech_model'")
    try:
        return dict(transformers.FeatureExtractionMixin.get_feature_extractor_dict(name)[0])
    except (OSError, ValueError):
        return {}


def _check_recordings(name: str, shape: AudioShape, rate: int | None) -> None:
    if shape.channels != 1:
        raise UserError(
            f"The audio input makes {shape.channels} channels, but '{name}' reads one. Set channels: 1 there."
        )
    if rate is not None and shape.sample_rate != rate:
        raise UserError(
            f"The audio input makes {shape.sample_rate:,} samples a second, but '{name}' was trained on {rate:,}. Set "
            f"sample_rate: {rate} in the audio input."
        )
