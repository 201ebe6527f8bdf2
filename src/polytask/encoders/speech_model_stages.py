"""Cutting a speech model of transformers into stages."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from polytask.encoders.auto_model_stages import ModelLayer
from polytask.encoders.encoder import Stage
from polytask.encoders.spectrogram import mel_filters
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.shapes import AudioShape

logger = logging.getLogger("polytask")

_PROBE_SAMPLES = 16_000
_SHORTEST = 1_600
_SILENCE = 1e-10


def cut(model: Any, shape: AudioShape, normalize: bool) -> tuple[dict[str, Stage], int, nn.Module | None]:
    """The stages of a model, from samples to `tokens`, their number of features, and a normalisation behind them.

    Args:
        model: A model of transformers; of one with a decoder, its encoder. Its parts become the stages' parts.
        shape: The recordings.
        normalize: Whether each recording gets mean 0 and deviation 1 before.

    Raises:
        UserError: The recordings are longer than the model can read.
    """
    model.eval()
    for path, module in list(model.named_modules()):
        if parametrize.is_parametrized(module):
            # A weight that is computed from others can be neither pickled nor given to one task.
            _fold(model.get_submodule(path))
    model.config.layerdrop = 0.0
    if model.config.model_type == "whisper":
        return _whisper(model, shape)
    _no_masking(model)
    probe = _probe()
    expected = _run({"backbone": _Backbone(model, 0, normalize)}, probe, None)
    width = expected.values.shape[2]
    for way in (_layered, _layered_with_norm_last, _with_features):
        found = way(model, width, normalize)
        if found is not None and _agree(*found, expected, probe):
            return found[0], width, found[1]
    logger.info("The layers of a %s model cannot be told apart, so they are one stage.", model.config.model_type)
    return {"backbone": _Backbone(model, width, normalize)}, width, None


def _probe() -> dict[str, Tensor]:
    """Two recordings, the second half as long."""
    waves = torch.randn(2, 1, _PROBE_SAMPLES, generator=torch.Generator().manual_seed(0))
    waves[1, :, _PROBE_SAMPLES // 2 :] = 0
    return {"waveform": waves, "lengths": torch.tensor([_PROBE_SAMPLES, _PROBE_SAMPLES // 2])}


class _Samples(Stage):
    """Reads samples: convolutions of a model, and a linear map to its width.

    Args:
        parts: `convolutions` and `projection`, and where layers follow that are stages, `positions`, `norm` and
            `dropout`.
        width: Number of features of a token.
        normalize: Whether each recording gets mean 0 and deviation 1 before.
    """

    module: nn.ModuleDict

    def __init__(self, parts: Mapping[str, nn.Module], width: int, normalize: bool) -> None:
        super().__init__(nn.ModuleDict(parts), FeatureShape("tokens", width))
        self.normalize = normalize

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        parts = self.module
        waves, lengths = _prepared(inputs, self.normalize)
        values, mask = _convolved(parts["convolutions"], waves, lengths)
        projected = parts["projection"](values.transpose(1, 2))
        values = projected[0] if isinstance(projected, tuple) else projected
        values = values * mask.unsqueeze(2)
        if "positions" in parts:
            values = parts["dropout"](parts["norm"](values + _positioned(parts["positions"], values, mask)))
        return Features(values, mask)


class _Encoder(Stage):
    """All layers of a model."""

    def forward(self, features: Features) -> Features:
        mask = features.mask
        assert mask is not None
        # Some models write zeros into what they get.
        output = self.module(features.values.clone(), attention_mask=mask)
        return features._replace(values=output.last_hidden_state)


class _Backbone(Stage):
    """A whole model, which reads recordings of each length by themselves: what it does with padding is not known."""

    def __init__(self, model: Any, width: int, normalize: bool) -> None:
        super().__init__(model, FeatureShape("tokens", width))
        self.normalize = normalize

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        waves, lengths = _prepared(inputs, self.normalize)
        waves = F.pad(waves, (0, max(0, _SHORTEST - waves.shape[1])))
        groups = [(length, (lengths == length).nonzero().squeeze(1)) for length in sorted({*lengths.tolist()})]
        found = [self.module(waves[rows, : max(length, _SHORTEST)]).last_hidden_state for length, rows in groups]
        frames = max(values.shape[1] for values in found)
        places = torch.cat([rows for _, rows in groups]).argsort()
        values = torch.cat([F.pad(values, (0, 0, 0, frames - values.shape[1])) for values in found])[places]
        counts = torch.cat([lengths.new_full((len(values),), values.shape[1]) for values in found])[places]
        return Features(values, torch.arange(frames, device=waves.device) < counts[:, None])


def _layered(
    model: Any, width: int, normalize: bool, *, norm_last: bool = False
) -> tuple[dict[str, Stage], nn.Module | None] | None:
    """Samples and layers, where the model is built as wav2vec 2.0 is.

    Where layers normalise what they read, the normalisation of the first one's input comes behind the last one.
    """
    body: Any = getattr(model, "encoder", None)
    names = ("pos_conv_embed", "layer_norm", "dropout", "layers")
    implementation = getattr(model.config, "_attn_implementation", None)
    if not all(hasattr(body, name) for name in names) or implementation not in ("sdpa", "eager"):
        return None
    parts = _readers(model)
    if parts is None:
        return None
    parts |= {"positions": body.pos_conv_embed, "dropout": body.dropout}
    parts["norm"] = nn.Identity() if norm_last else body.layer_norm
    stages: dict[str, Stage] = {"features": _Samples(parts, width, normalize)}
    for number, layer in enumerate(body.layers, start=1):
        stages[f"layer{number}"] = ModelLayer(layer, width, additive=implementation == "eager")
    return stages, body.layer_norm if norm_last else None


def _layered_with_norm_last(
    model: Any, width: int, normalize: bool
) -> tuple[dict[str, Stage], nn.Module | None] | None:
    return _layered(model, width, normalize, norm_last=True)


def _with_features(model: Any, width: int, normalize: bool) -> tuple[dict[str, Stage], nn.Module | None] | None:
    """Samples, and all layers together."""
    parts = _readers(model)
    if parts is None or getattr(model, "encoder", None) is None:
        return None
    tokens = FeatureShape("tokens", width)
    return {"features": _Samples(parts, width, normalize), "backbone": _Encoder(model.encoder, tokens)}, None


def _readers(model: Any) -> dict[str, nn.Module] | None:
    convolutions = getattr(getattr(model, "feature_extractor", None), "conv_layers", None)
    projection = getattr(model, "feature_projection", None)
    if convolutions is None or projection is None or getattr(model, "adapter", None) is not None:
        return None
    return {"convolutions": convolutions, "projection": projection}


def _agree(
    stages: Mapping[str, Stage], norm: nn.Module | None, expected: Features, probe: Mapping[str, Tensor]
) -> bool:
    """Whether stages compute what the model does, for the shorter recording, too."""
    try:
        found = _run(stages, probe, norm)
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        # These layers want more than values and a mask.
        return False
    real, frames = expected.mask, found.mask
    assert real is not None
    if frames is None or not torch.equal(frames, real):
        return False
    return torch.allclose(found.values[real], expected.values[real], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def _run(stages: Mapping[str, Stage], probe: Mapping[str, Tensor], norm: nn.Module | None) -> Features:
    features: Any = probe
    for stage in stages.values():
        features = stage(features)
    return features if norm is None else features._replace(values=norm(features.values))  # type: ignore[no-any-return]


def _fold(module: Any) -> None:
    for name in list(module.parametrizations):
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    # What would read weights of the old form; it cannot be pickled either.
    module._load_state_dict_pre_hooks.clear()


def _no_masking(model: Any) -> None:
    """Switch off what the model masks of its own in training, and take out what it puts there."""
    for name in ("mask_time_prob", "mask_feature_prob"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    if isinstance(getattr(model, "masked_spec_embed", None), nn.Parameter):
        del model.masked_spec_embed
    if hasattr(model, "feature_extractor"):
        # Else it asks for the gradient of the recording.
        model.feature_extractor._requires_grad = False


def _prepared(inputs: Mapping[str, Tensor], normalize: bool) -> tuple[Tensor, Tensor]:
    """Samples `[B, S]`, and how many each recording has."""
    waves, lengths = inputs["waveform"][:, 0], inputs["lengths"]
    if not normalize:
        return waves, lengths
    real = (torch.arange(waves.shape[1], device=waves.device) < lengths[:, None]).to(waves.dtype)
    count = lengths[:, None].clamp(min=1)
    mean = (waves * real).sum(1, keepdim=True) / count
    centred = (waves - mean) * real
    return centred * (centred.square().sum(1, keepdim=True) / count + 1e-7).rsqrt(), lengths


def _convolved(layers: Any, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Samples `[B, S]` through convolutions, to `[B, C, T]` with a mask `[B, T]`.

    A frame is real where all samples that it sees are. A recording that is too short for one frame is followed by
    zeros up to that length.
    """
    shortest = 1
    for layer in reversed(layers):
        shortest = (shortest - 1) * layer.conv.stride[0] + layer.conv.kernel_size[0]
    values = F.pad(waves, (0, max(0, shortest - waves.shape[1])))[:, None]
    lengths = lengths.clamp(min=shortest)
    for layer in layers:
        lengths = (lengths - layer.conv.kernel_size[0]).div(layer.conv.stride[0], rounding_mode="floor") + 1
        norm = getattr(layer, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            values = layer.conv(values)
            values = layer.activation(
                _normalised(values, torch.arange(values.shape[2], device=values.device), lengths, norm)
            )
        else:
            values = layer(values)
    return values, torch.arange(values.shape[2], device=values.device) < lengths[:, None]


def _positioned(positions: Any, values: Tensor, mask: Tensor) -> Tensor:
    """What is added to tokens `[B, T, D]` for their positions: convolutions, none of which sees what is not real."""
    layers = getattr(positions, "layers", None)
    if layers is None:
        return positions(values)  # type: ignore[no-any-return]
    found = values.transpose(1, 2)
    for layer in layers:
        found = layer(found * mask[:, None])
    return found.transpose(1, 2)


def _normalised(values: Tensor, places: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Each channel of `[B, C, T]` normalised over the frames that are real, as `norm` does it over all."""
    with torch.autocast(values.device.type, enabled=False):
        values = values.to(norm.weight.dtype)
        real = (places < lengths[:, None])[:, None].to(values.dtype)
        count = lengths[:, None, None].clamp(min=1)
        mean = (values * real).sum(2, keepdim=True) / count
        variance = ((values - mean) * real).square().sum(2, keepdim=True) / count
        return (values - mean) * (variance + norm.eps).rsqrt() * norm.weight[:, None] + norm.bias[:, None]


def _whisper(model: Any, shape: AudioShape) -> tuple[dict[str, Stage], int, nn.Module | None]:
    reader = _WhisperFeatures(model, shape.sample_rate)
    most = 2 * model.config.max_source_positions * reader.hop
    if shape.samples > most:
        raise UserError(
            f"The audio input reads up to {shape.samples / shape.sample_rate:g} s of a recording, but the model reads "
            f"{most / shape.sample_rate:g} s. Set max_seconds: {most / shape.sample_rate:g} in the audio input."
        )
    additive = model.config._attn_implementation == "eager"
    stages: dict[str, Stage] = {"features": reader}
    for number, layer in enumerate(model.layers, start=1):
        stages[f"layer{number}"] = ModelLayer(layer, reader.shape.width, additive)
    return stages, reader.shape.width, model.layer_norm


class _WhisperFeatures(Stage):
    """Samples to Whisper's log-mel spectra, two convolutions, and positions.

    What follows a recording is silence, as far as the convolutions see it.

    Args:
        model: The encoder.
        rate: Samples a second; the window is 25 ms and the hop is 10 ms, at any rate.
    """

    module: nn.ModuleDict
    positions: Tensor
    window: Tensor
    filters: Tensor

    def __init__(self, model: Any, rate: int) -> None:
        parts = nn.ModuleDict({name: getattr(model, name) for name in ("conv1", "conv2")})
        super().__init__(parts, FeatureShape("tokens", model.config.d_model))
        self.register_buffer("positions", model.embed_positions.weight.detach().clone())
        self.dropout = nn.Dropout(model.config.dropout)
        self.hop, length = round(0.01 * rate), round(0.025 * rate)
        self.register_buffer("window", torch.hann_window(length), persistent=False)
        filters = mel_filters(length // 2 + 1, model.config.num_mel_bins, rate, "slaney", even_area=True)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        waves, lengths = inputs["waveform"][:, 0], inputs["lengths"]
        frames = lengths.div(self.hop, rounding_mode="floor").clamp(min=1)
        # Four frames more than the recording has: as many as the convolutions see beyond its end.
        count = min(-(-waves.shape[1] // self.hop) // 2 * 2 + 4, 2 * len(self.positions))
        values = self._spectra(waves, frames, count)
        values = F.gelu(self.module["conv2"](F.gelu(self.module["conv1"](values)))).transpose(1, 2)
        mask = torch.arange(values.shape[1], device=values.device) < (frames + 1).div(2, rounding_mode="floor")[:, None]
        return Features(self.dropout(values + self.positions[: values.shape[1]]), mask)

    def _spectra(self, waves: Tensor, frames: Tensor, count: int) -> Tensor:
        """`[B, S]` to `[B, bands, count]`."""
        half = len(self.window) // 2
        with torch.autocast(waves.device.type, enabled=False):
            waves = waves.to(self.window.dtype)
            needed = (count - 1) * self.hop + len(self.window) - half
            waves = F.pad(waves, (0, max(0, needed - waves.shape[1])))[:, :needed]
            waves = F.pad(waves[:, None], (half, 0), "reflect")[:, 0]
            spectra = torch.stft(
                waves, len(self.window), self.hop, window=self.window, center=False, return_complex=True
            )
            power = torch.view_as_real(spectra).square().sum(-1)
            found = (self.filters.T @ power).clamp(min=_SILENCE).log10()[..., :count]
            real = (torch.arange(count, device=waves.device) < frames[:, None])[:, None]
            silence = torch.full((), torch.finfo(found.dtype).min, device=found.device)
            loudest = torch.where(real, found, silence).amax((1, 2), keepdim=True)
            floor = (loudest - 8).clamp(min=torch.tensor(_SILENCE).log10().item())
            found = torch.maximum(torch.where(real, found, floor), floor)
            return (found + 4) / 4
