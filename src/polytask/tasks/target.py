"""What users may write for a task's target, and what it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from polytask.errors import UserError, closest, listing
from polytask.labels import TargetSummary


def target_columns(target: str | Sequence[str] | None, name: str | None) -> tuple[str, ...]:
    """The columns of a target: those given, else the one called as the task is.

    Raises:
        UserError: There is neither a target nor a name, or a column is there twice.
    """
    if target is None:
        if name is None:
            raise UserError("A task needs a target (the column to predict) or a name.")
        return (name,)
    columns = (target,) if isinstance(target, str) else tuple(target)
    if not columns:
        raise UserError("A task's target is an empty list: name at least one column.")
    if len(set(columns)) != len(columns):
        raise UserError(f"A task's target names a column twice: {listing(columns)}.")
    return columns


def one_column(target: str | None, name: str | None) -> tuple[str]:
    """The column of a target that can only be one.

    Raises:
        UserError: There is neither a target nor a name, or there are several targets.
    """
    columns = target_columns(target, name)
    if len(columns) > 1:
        raise UserError(
            f"A classification has one target column, but {len(columns)} were given: {listing(columns)}. "
            "Make a task of each, or use the type 'multi_label' for yes/no columns."
        )
    return (columns[0],)


def source_names(sources: str | Sequence[str] | None, task: str | None) -> tuple[str, ...] | None:
    """The names of the data sets that a task takes its labels from; None for all.

    Raises:
        UserError: There are none, or one is there twice.
    """
    if sources is None:
        return None
    names = (sources,) if isinstance(sources, str) else tuple(sources)
    if not names or len(set(names)) != len(names):
        what = "an empty list" if not names else f"{listing(names)}, with one of them twice"
        raise UserError(f"Task '{task or ''}': sources is {what}. Name each source once, or leave it out for all.")
    return names


def weight_column(column: str | None, targets: Sequence[str], task: str | None) -> str | None:
    """The column with what each row counts in the mean loss.

    Raises:
        UserError: It is one of those that the task predicts.
    """
    if column in targets:
        raise UserError(
            f"Task '{task or ''}': sample_weight is '{column}', which the task predicts. Give a column of its own with "
            "numbers of at least 0."
        )
    return column


def task_name(name: str | None, columns: Sequence[str]) -> str:
    """The task's name: the given one, else that of its columns."""
    return "_".join(columns) if name is None else name


def class_names(classes: int | Sequence[str] | None, task: str) -> tuple[str, ...] | None:
    """The classes' names: `"0"`, `"1"`... for a number of classes, None for None.

    Raises:
        UserError: There are no classes, or one is there twice.
    """
    if classes is None:
        return None
    names = [str(i) for i in range(classes)] if isinstance(classes, int) else [_as_text(c) for c in classes]
    if not names:
        raise UserError(f"Task '{task}': there are no classes.")
    if len(set(names)) != len(names):
        twice = sorted({c for c in names if names.count(c) > 1})
        raise UserError(f"Task '{task}': classes has {listing(twice)} more than once.")
    return tuple(names)


def named_weights(
    weights: Mapping[str, float], classes: Sequence[str], *, task: str, parameter: str, default: float = 1.0
) -> list[float]:
    """A weight for each class, in order, from weights by name; `default` for classes that are not named.

    Raises:
        UserError: A name is no class, or a weight is negative.
    """
    by_name = {_as_text(name): weight for name, weight in weights.items()}
    for name, weight in by_name.items():
        if name not in classes:
            raise UserError(
                f"Task '{task}': {parameter} names '{name}', which is no class of it.{closest(name, classes)} "
                f"Its classes: {listing(classes)}."
            )
        if not 0 <= weight < float("inf"):
            raise UserError(f"Task '{task}': {parameter} of '{name}' is {weight}, but must be at least 0.")
    return [float(by_name.get(name, default)) for name in classes]


def _as_text(name: object) -> str:
    # As the data are read: YAML makes a truth value of a bare `yes`, and a number of `1`.
    if isinstance(name, bool):
        return str(name).lower()
    return str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)


def completed(parameters: Mapping[str, Any], summary: TargetSummary, **found: Iterable[Any]) -> dict[str, Any]:
    """`parameters` with what was `found` in the training part.

    Raises:
        UserError: The training part has no label at all.
    """
    if summary.labelled == 0:
        raise UserError(
            f"No training row has a label for the target {parameters.get('target') or parameters.get('name') or ''}: "
            "there is nothing to learn from."
        )
    return {**parameters, **{parameter: list(values) for parameter, values in found.items()}}
