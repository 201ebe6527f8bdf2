"""Polytask trains one neural network for many tasks and tells you honestly whether sharing paid off.

Everything is imported when first used, so that `import polytask` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polytask import balancing, data, encoders, fusion, optimization, schedules, shapes, sharing, tasks
    from polytask.api import train
    from polytask.config import Config
    from polytask.errors import UserError
    from polytask.evaluation import Run
    from polytask.model import MultiTaskModel

__version__ = "0.1.0"

_PACKAGES = ("balancing", "data", "encoders", "fusion", "optimization", "schedules", "shapes", "sharing", "tasks")
_NAMES = {
    "Config": "polytask.config",
    "MultiTaskModel": "polytask.model",
    "Run": "polytask.evaluation",
    "UserError": "polytask.errors",
    "train": "polytask.api",
}

__all__ = [
    "Config",
    "MultiTaskModel",
    "Run",
    "UserError",
    "__version__",
    "balancing",
    "data",
    "encoders",
    "fusion",
    "optimization",
    "schedules",
    "shapes",
    "sharing",
    "tasks",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"polytask.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'polytask' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
