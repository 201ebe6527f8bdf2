"""Every sharing scheme, with what it needs beside its defaults."""

from collections.abc import Mapping
from typing import Any

from polytask import sharing

TASKS = ("age", "type", "mood")

NEEDED: Mapping[str, Mapping[str, Any]] = {}
"""Parameters of the schemes that cannot be built without."""

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "hard-bottom": ("hard", {"share_until": 1}),
    "hard-nothing": ("hard", {"share_until": 0}),
}
"""More forms of a scheme that all tests are to be run on, by a name of their own."""

SCHEMES = {**{name: (name, NEEDED.get(name, {})) for name in sharing.names()}, **VARIANTS}

ENCODERS = (
    "mlp", "tabular_resnet", "ft_transformer", "cnn", "resnet", "vgg", "timm-transformer", "bag", "bigru", "text_cnn",
    "transformer", "auto_model-bert",
)  # fmt: skip

REFUSED: set[tuple[str, str]] = set()
"""Pairs of scheme and encoder that do not go together: building says so, and names both."""
