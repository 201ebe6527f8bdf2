"""Every sharing scheme, with what it needs beside its defaults."""

from collections.abc import Mapping
from typing import Any

from polytask import sharing

from ..encoders.cases import CASES, prepared
from ..fusion.cases import CASES as FUSED

TASKS = ("age", "type", "mood")

NEEDED: Mapping[str, Mapping[str, Any]] = {
    "covariance": {"share_until": 1, "relate": "both"},  # by default it wants heads of one shape
    "branching": {"tree": {-1: [["age"], ["type", "mood"]]}},
}
"""Parameters of the schemes that cannot be built without."""

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "adapters-bitfit": ("adapters", {"kind": "bitfit"}),
    "adapters-film": ("adapters", {"kind": "film", "layers": [-1]}),
    "adapters-houlsby": ("adapters", {"kind": "houlsby", "rank": 2, "dropout": 0.1}),
    "adapters-lora-everywhere": ("adapters", {"rank": 2, "dropout": 0.1, "embeddings": True}),
    "adatt-one-own-expert": ("adatt", {"task_experts": 1, "shared_experts": 0, "levels": 3, "hidden": (6, 5)}),
    "covariance-heads": ("covariance", {}),
    "covariance-stages": ("covariance", {"share_until": 0, "relate": "stages"}),
    "cgc-one-own-expert": ("cgc", {"task_experts": 1, "balance": 0.1, "gate_dropout": 0.2}),
    "dselect_k-static": ("dselect_k", {"experts": 5, "gates": "static"}),
    "mmoe-layers": ("mmoe", {"experts": 3, "hidden": (6, 5), "balance": 0.1, "gate_dropout": 0.2}),
    "mmoe-stages": ("mmoe", {"share_until": 1, "experts": 2}),
    "ple-stages": ("ple", {"share_until": 1, "task_experts": 1, "shared_experts": 1}),
    "ple-three-levels": ("ple", {"levels": 3, "task_experts": 2, "shared_experts": 1, "hidden": (6,)}),
    "adversarial-fully-shared": ("adversarial", {"private": False, "schedule": "dann"}),
    "adversarial-small-private": ("adversarial", {"private_until": 1, "discriminator_layers": 1}),
    "man-l2": ("man", {"loss": "l2", "discriminator_steps": 2}),
    "adashare-drawn": ("adashare", {"straight_through": True, "shared_end": "top", "curriculum": 0.0}),
    "ltb-two-nodes": ("ltb", {"nodes": 2, "straight_through": False}),
    "mtan-pointwise": ("mtan", {"reduction": 1, "kernel": 1}),
    "branching-affinity": (
        "branching",
        {"affinity": {"age": {"type": 0.9, "mood": 0.2}, "type": {"mood": 0.3}}, "branch_cost": 0.2},
    ),
    "soft-mean": ("soft", {"penalty": "mean", "between": [1]}),
    "soft-trace_norm": ("soft", {"penalty": "trace_norm"}),
    "soft-cosine": ("soft", {"penalty": "cosine"}),
    "stacked_experts-input": ("stacked_experts", {"experts": ["mood", "age"], "gate": "input"}),
    "cross_stitch-channel": ("cross_stitch", {"per": "channel", "after": "inner"}),
    "nddr-shortcut": ("nddr", {"shortcut": True, "activation": "relu"}),
    "hard-bottom": ("hard", {"share_until": 1}),
    "hard-nothing": ("hard", {"share_until": 0}),
}
"""More forms of a scheme that all tests are to be run on, by a name of their own."""

SCHEMES = {**{name: (name, NEEDED.get(name, {})) for name in sharing.names()}, **VARIANTS}

ENCODERS = (
    "mlp", "tabular_resnet", "ft_transformer", "cnn", "resnet", "vgg", "timm-transformer", "bag", "bag-weighted",
    "bigru", "text_cnn", "transformer", "auto_model-bert", "gcn", "gin", "gat",
    "audio_cnn", "crnn", "speech_model-wav2vec2", "fused", "fused-transformer",
)  # fmt: skip

OF_EACH_KIND = ("tabular_resnet", "cnn", "transformer", "gin", "fused-perceiver")
"""Encoders with vectors, maps, tokens and nodes between their stages, and several in one, for the variants."""

CHOOSING = {"adashare", "ltb"}
"""Schemes that learn choices: in evaluation no loss reaches these, so reach is tested while they are drawn."""

REFUSED: set[tuple[str, str]] = {
    ("adapters", "bag"), ("adapters-bitfit", "bag"), ("adapters", "bag-weighted"), ("adapters-bitfit", "bag-weighted"),
    ("adashare", "bag"), ("adashare-drawn", "bag"), ("adashare", "bag-weighted"), ("adashare-drawn", "bag-weighted"),
    ("adashare", "text_cnn"), ("adashare-drawn", "text_cnn"), ("adashare", "audio_cnn"), ("adashare", "crnn"),
    ("task_norm", "mlp"), ("task_norm", "bag"), ("task_norm", "bag-weighted"), ("task_norm", "bigru"),
    ("task_norm", "text_cnn"),
}  # fmt: skip
"""Pairs of scheme and encoder that do not go together: building says so, and names both."""


def case_of(encoder: str) -> Any:
    """An encoder with inputs for it."""
    return FUSED[encoder] if encoder in FUSED else prepared(CASES[encoder])
