"""The whole job from Python: `polytask.train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polytask.config import Config, load_config
from polytask.evaluation import Run
from polytask.training.train import train as _train


def train(config: Config | Mapping[str, Any] | str | Path, output: str | Path | None = None) -> Run:
    """Train a model.

    Args:
        config: A YAML file's path, its content as a mapping, or a `Config`.
        output: The run folder, new or empty; None: `runs/<the configuration's name>`.

    Returns:
        The finished run.

    Raises:
        UserError: The data or the configuration do not allow it.
    """
    if isinstance(config, Mapping):
        config = Config.from_mapping(dict(config))
    elif not isinstance(config, Config):
        config = load_config(Path(config))
    folder = _train(config, None if output is None else Path(output))
    return Run(folder.root)
