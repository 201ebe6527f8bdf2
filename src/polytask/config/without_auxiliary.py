"""The configuration that a training with auxiliary tasks is compared with: the same without them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from polytask.config.checks import (
    hide_columns,
    learn_from_unlabelled,
    main_tasks,
    steering_columns,
    target_columns,
)
from polytask.config.config import Config
from polytask.config.data_checks import with_joined
from polytask.config.schema import DEFAULTS, DataConfig
from polytask.errors import UserError, listing


def require_auxiliary(config: Config) -> list[str]:
    """The auxiliary tasks.

    Raises:
        UserError: There is none.
    """
    main = main_tasks(config.tasks)
    found = [task for task in config.tasks if task not in main]
    if not found:
        raise UserError(
            f"No task is auxiliary, so there is nothing to check. The tasks: {listing(config.tasks)}. Mark those that "
            "are learned for the sake of the others with auxiliary: true."
        )
    return found


def without_auxiliary(config: Config, steps_per_epoch: int, sources: Collection[str] | None = None) -> Config:
    """The same recipe without the auxiliary tasks, for the same number of steps.

    Args:
        config: The recipe.
        steps_per_epoch: Steps in an epoch of the training with them.
        sources: The names of the sources that label a main task, where there are several: those that are neither among
            them nor joined with them are left out. None: all stay, as they do where a main task learns from rows
            without labels.

    Raises:
        UserError: What is left is no training: the schedule or the sharing scheme names an auxiliary task.
    """
    left_out = require_auxiliary(config)
    less = config.to_mapping()
    main = main_tasks(config.tasks)
    targets = {name: target_columns(name, spec) for name, spec in config.tasks.items()}
    hidden = {column for task in left_out for column in targets[task]}.union(steering_columns(config))
    hidden = hidden.difference(*(targets[task] for task in main))
    hide_columns(less["inputs"], hidden)
    if learn_from_unlabelled(config, main):
        sources = None
    if not isinstance(config.data, DataConfig):
        less["data"] = {name: less["data"][name] for name in with_joined(config.data, sources)}
    for task in left_out:
        del less["tasks"][task]
        less["training"]["tasks"].pop(task, None)
    if "main" in config.balancing.parameters:
        less["balancing"] = DEFAULTS["balancing",]
    else:
        less["balancing"] = {key: _without(value, left_out) for key, value in less["balancing"].items()}
    less["schedule"] = {key: _without(value, left_out) for key, value in less["schedule"].items()}
    model = less["model"]
    model["relations"] = [each for each in model["relations"] if not _mentions(each, left_out)]
    if model["init_from"] is not None:
        model["init_from"]["runs"] = _without(model["init_from"]["runs"], left_out)
        if not model["init_from"]["runs"]:
            model["init_from"] = None
    less["training"]["epoch_length"] = steps_per_epoch
    less["name"] = f"{config.run_name()}-without-auxiliary"
    try:
        return Config.from_mapping(less, "the configuration without its auxiliary tasks")
    except UserError as error:
        raise UserError(f"Without {listing(left_out)} there is nothing to compare with: {error}") from error


def _mentions(value: Any, names: Sequence[str]) -> bool:
    if isinstance(value, Mapping):
        return any(key in names or _mentions(part, names) for key, part in value.items())
    if isinstance(value, list | tuple):
        return any(_mentions(part, names) for part in value)
    return value in names


def _without(value: Any, names: Sequence[str]) -> Any:
    """A parameter that has a value for each task, without those of some."""
    return {key: part for key, part in value.items() if key not in names} if isinstance(value, Mapping) else value
