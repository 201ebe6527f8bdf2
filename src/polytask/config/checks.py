"""What the parts of a configuration demand of each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from polytask.config.component import ComponentSpec
from polytask.config.document import KeyPath
from polytask.config.errors import Problem
from polytask.config.families import Kind, family_of
from polytask.config.schema import MEAN_GAIN, DataConfig, ModelConfig, SplitConfig
from polytask.data.readers.options import ReadOptions
from polytask.errors import UserError, closest, listing

if TYPE_CHECKING:
    from polytask.config.config import Config


def problems_in(config: Config) -> list[Problem]:
    """Everything that is wrong between the parts."""
    return [
        *_names("inputs", config.inputs, "."),
        *_names("tasks", config.tasks, "./"),
        *_run_name(config.name),
        *_reading(config.data),
        *_split(config.data.split, given=config.data.valid is not None and config.data.test is not None),
        *_targets(config),
        *_encoders(config.model, config.inputs),
        *_relations(config.model, config.tasks),
        *_criteria(config),
    ]


def target_columns(name: str, task: ComponentSpec) -> tuple[str, ...]:
    """The columns that a task predicts.

    Raises:
        UserError: The task's parameters do not go together.
    """
    columns: tuple[str, ...] = task.cls.target_spec({**task.parameters, "name": name}).columns
    return columns


def _names(section: str, entries: Mapping[str, Any], refused: str) -> Iterator[Problem]:
    for name in entries:
        if not name.strip():
            yield Problem((section, name), f"the {section} need names, but this one is empty.")
        for character in refused:
            if character in name:
                yield Problem(
                    (section, name),
                    f"a name must not contain '{character}', which separates the parts of a metric's or a parameter's "
                    f"name. Try '{re.sub('[./]+', '_', name)}'.",
                )


def _run_name(name: str | None) -> Iterator[Problem]:
    if name is not None and (not name.strip() or name in (".", "..") or re.search(r"[/\\\0]", name)):
        yield Problem(("name",), f"expected a name that a folder can have, without slashes, found {name!r}.")


def _reading(data: DataConfig) -> Iterator[Problem]:
    for name, value in data.read_options().items():
        try:
            ReadOptions(**{name: value})
        except UserError as error:
            yield Problem(("data", name), str(error))


def _split(split: SplitConfig, given: bool) -> Iterator[Problem]:
    path: KeyPath = ("data", "split")
    if split.by == "random" and split.column:
        yield Problem(
            (*path, "column"), "a random split uses no column. Splits that use one: by: stratified, group or column."
        )
    if split.by != "random" and not split.column and not given:
        yield Problem(path, f"to split by '{split.by}', give the 'column' as well.")
    if split.by in ("group", "column") and isinstance(split.column, list) and len(split.column) > 1:
        yield Problem((*path, "column"), f"a split by '{split.by}' takes one column, not {len(split.column)}.")
    if split.valid + split.test >= 1:
        yield Problem(
            path,
            f"valid and test take {split.valid + split.test:g} of the rows together: nothing is left to train on.",
        )


def _targets(config: Config) -> Iterator[Problem]:
    read = {column: name for name, spec in config.inputs.items() for column in spec.create().named}
    for name, task in config.tasks.items():
        try:
            columns = target_columns(name, task)
        except UserError as error:
            yield Problem(("tasks", name), str(error))
            continue
        for column in columns:
            if column in read:
                yield Problem(
                    ("inputs", read[column]),
                    f"the column '{column}' is the target of the task '{name}', so the network would read the answer. "
                    "Take it out of the input's columns.",
                )


def _encoders(model: ModelConfig, inputs: Mapping[str, ComponentSpec]) -> Iterator[Problem]:
    family = family_of(Kind.ENCODER)
    for name, encoder in model.encoders.items():
        path = ("model", "encoders", name)
        if name not in inputs:
            suggestion = closest(name, inputs)
            yield Problem(path, f"there is no input of this name.{suggestion} The inputs: {listing(inputs)}.")
            continue
        reads, is_a = encoder.cls.modality, inputs[name].cls.modality
        if reads != is_a:
            suited = [other for other in family.names() if family.get(other).modality == is_a]
            yield Problem(
                path,
                f"the encoder '{encoder.type}' reads {reads}, but the input '{name}' is {is_a}. "
                f"Encoders that read {is_a}: {listing(suited, limit=40)}.",
            )
    if len(inputs) > 1 and model.sharing.type == "hard":
        yield Problem(
            ("inputs",),
            f"a model has one input so far, but here are {len(inputs)}: {listing(inputs)}. "
            "Put a table's columns together in one tabular input.",
        )


def _relations(model: ModelConfig, tasks: Mapping[str, ComponentSpec]) -> Iterator[Problem]:
    from polytask.sharing.relations import problems_of

    for number, parameter, message in problems_of([spec.create() for spec in model.relations], list(tasks)):
        path: KeyPath = ("model", "relations", number)
        yield Problem(path if parameter is None else (*path, parameter), message)


def _criteria(config: Config) -> Iterator[Problem]:
    training = config.training
    stopping = training.early_stopping
    criteria: dict[KeyPath, str] = {("training", "selection"): training.selection}
    if stopping is not None:
        criteria["training", "early_stopping", "metric"] = stopping.metric
    for path, criterion in criteria.items():
        problem = None if criterion == MEAN_GAIN else _criterion(criterion, config.tasks)
        if problem:
            yield Problem(path, problem)


def _criterion(criterion: str, tasks: Mapping[str, ComponentSpec]) -> str | None:
    parts = criterion.split("/")
    form = f"Write {MEAN_GAIN}, or task/valid/metric"
    if len(parts) != 3:
        example = f"{next(iter(tasks))}/valid/loss"
        return f"'{criterion}' is not a criterion.{closest(criterion, [MEAN_GAIN])} {form}, for example {example}."
    task, part, metric = parts
    if task not in tasks:
        return f"'{criterion}' names no task.{closest(task, tasks)} The tasks: {listing(tasks)}."
    if part != "valid":
        return f"'{criterion}' is measured on '{part}', but choices are made on validation data. {form}."
    known = ("loss", *getattr(tasks[task].cls, "metric_names", (metric,)))
    if metric not in known:
        return f"the task '{task}' has no metric '{metric}'.{closest(metric, known)} Allowed: {listing(known)}."
    return None
