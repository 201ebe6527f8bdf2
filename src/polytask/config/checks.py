"""What the parts of a configuration demand of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from polytask.config.component import ComponentSpec
from polytask.config.data_checks import data_problems
from polytask.config.document import KeyPath
from polytask.config.errors import Problem
from polytask.config.families import Kind, family_of
from polytask.config.schema import ModelConfig
from polytask.config.training_schema import MEAN_GAIN
from polytask.errors import UserError, closest, listing

if TYPE_CHECKING:
    from polytask.config.config import Config


def problems_in(config: Config) -> list[Problem]:
    """Everything that is wrong between the parts."""
    return [
        *_names("inputs", config.inputs, "."),
        *_names("tasks", config.tasks, "./"),
        *_run_name(config.name),
        *data_problems(config),
        *_targets(config),
        *_auxiliary(config.tasks),
        *_positions(config.tasks, config.inputs),
        *_encoders(config.model, config.inputs),
        *_relations(config.model, config.tasks),
        *_criteria(config),
        *_own_training(config),
        *_mixing(config),
        *_unlabelled(config),
        *_schedule(config),
    ]


def target_columns(name: str, task: ComponentSpec) -> tuple[str, ...]:
    """The columns that a task predicts.

    Raises:
        UserError: The task's parameters do not go together.
    """
    columns: tuple[str, ...] = task.cls.target_spec({**task.parameters, "name": name}).columns
    return columns


def steering_columns(config: Config) -> list[str]:
    """The columns that only say what rows count, or how often they are drawn: inputs read them if they name them."""
    training = config.training
    samplers = [training.sampler, *(own.sampler for own in training.tasks.values())]
    found = [sampler.parameters.get("column") for sampler in samplers if sampler is not None]
    found += [task.parameters.get("sample_weight") for task in config.tasks.values()]
    return list(dict.fromkeys(column for column in found if isinstance(column, str)))


def learn_from_unlabelled(config: Config, tasks: Iterable[str]) -> bool:
    """Whether any of some tasks learns from rows without its label, for which sources without labels are there too."""
    return any(name in config.training.tasks and config.training.tasks[name].unlabelled is not None for name in tasks)


def hide_columns(inputs: Mapping[str, Any], columns: Iterable[str]) -> None:
    """Keep columns out of the inputs that read all there are, in plain values that are changed in place."""
    for given in inputs.values():
        if given.get("columns") == "*":
            given["exclude"] = sorted({*given.get("exclude", ()), *columns})


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


def main_tasks(tasks: Mapping[str, ComponentSpec]) -> list[str]:
    """The tasks that are not auxiliary."""
    return [name for name, task in tasks.items() if not task.parameters.get("auxiliary", False)]


def _auxiliary(tasks: Mapping[str, ComponentSpec]) -> Iterator[Problem]:
    if not main_tasks(tasks):
        yield Problem(
            ("tasks",),
            "all tasks are auxiliary, so there is none whose sake they could be learned for, and none to choose the "
            "best epoch by. At least one needs auxiliary: false.",
        )


def _positions(tasks: Mapping[str, ComponentSpec], inputs: Mapping[str, ComponentSpec]) -> Iterator[Problem]:
    """Tasks that answer for positions of inputs that are not there."""
    there = ", ".join(f"'{name}' ({spec.cls.modality})" for name, spec in inputs.items())
    for name, task in tasks.items():
        needs = task.cls.modalities
        if needs and not any(spec.cls.modality in needs for spec in inputs.values()):
            yield Problem(
                ("tasks", name),
                f"a task of the type '{task.type}' answers for positions of an input of {listing(needs)}, but there is "
                f"none. The inputs: {there}.",
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
    if model.fusion is not None and not model.fusion.cls.fuses:
        kinds = {spec.cls.modality for spec in inputs.values()}
        if len(kinds) > 1:
            yield Problem(("model", "fusion"), f"one encoder cannot read inputs of several kinds: {listing(kinds)}.")
        if len(model.encoders) > 1:
            yield Problem(
                ("model", "encoders"),
                f"one encoder reads all inputs (fusion), but {len(model.encoders)} are given: "
                f"{listing(model.encoders)}. "
                "Leave all but one out.",
            )


def _relations(model: ModelConfig, tasks: Mapping[str, ComponentSpec]) -> Iterator[Problem]:
    from polytask.sharing.relations import problems_of

    for number, parameter, message in problems_of([spec.create() for spec in model.relations], list(tasks)):
        path: KeyPath = ("model", "relations", number)
        yield Problem(path if parameter is None else (*path, parameter), message)


def _schedule(config: Config) -> Iterator[Problem]:
    metrics = {name: _metrics(task) for name, task in config.tasks.items()}
    try:
        config.schedule.create().check(metrics, config.training.epochs)
    except UserError as error:
        yield Problem(("schedule",), str(error))


def _metrics(task: ComponentSpec) -> tuple[str, ...] | None:
    """The names of a task's metrics, where its class says them."""
    names = getattr(task.cls, "metric_names", None)
    return None if names is None else ("loss", *names)


def _own_training(config: Config) -> Iterator[Problem]:
    schedule = config.schedule
    together = schedule.type == "joint" and schedule.parameters["draw"] == "rows" and len(config.tasks) > 1
    for name, own in config.training.tasks.items():
        drawn = [key for key in ("batch_size", "sampler") if getattr(own, key) is not None]
        if together and drawn:
            yield Problem(
                ("training", "tasks", name, drawn[0]),
                "in the schedule 'joint', rows are drawn for all tasks together. To draw each task's own rows: "
                "schedule: {type: joint, draw: tasks}, or {type: alternating}.",
            )
        if name not in config.tasks:
            yield Problem(
                ("training", "tasks", name),
                f"there is no task of this name.{closest(name, config.tasks)} The tasks: {listing(config.tasks)}.",
            )
            continue
        stopping = config.training.tasks[name].early_stopping
        if stopping is not None and stopping.metric is not None:
            known = _metrics(config.tasks[name]) or (stopping.metric,)
            if stopping.metric not in known:
                yield Problem(
                    ("training", "tasks", name, "early_stopping", "metric"),
                    f"the task '{name}' has no metric '{stopping.metric}'.{closest(stopping.metric, known)} "
                    f"Allowed: {listing(known)}.",
                )
    for name in config.training.encoders:
        if name not in config.inputs:
            yield Problem(
                ("training", "encoders", name),
                f"there is no input of this name.{closest(name, config.inputs)} The inputs: {listing(config.inputs)}.",
            )


_PREDICTS = {"dense": "a map of numbers", "mask": "a mask", "text": "a text"}
"""Kinds of targets whose names do not say what they are, for messages."""


def _mixing(config: Config) -> Iterator[Problem]:
    for name, own in config.training.tasks.items():
        if own.mixing is None or name not in config.tasks:
            continue
        path = ("training", "tasks", name, "mixing")
        if len(config.inputs) > 1:
            yield Problem(
                path,
                f"rows of one input can be mixed, but the model has {len(config.inputs)}, of which rows may lack some: "
                f"{listing(config.inputs)}. Leave out the mixing.",
            )
            continue
        task = config.tasks[name]
        try:
            spec = task.cls.target_spec({**task.parameters, "name": name})
        except UserError:
            continue  # said where the task is
        if spec.kind not in ("category", "labels"):
            yield Problem(
                path,
                f"the task '{name}' ({task.type}) predicts {_PREDICTS.get(spec.kind, spec.kind)}, but mixing is "
                "for tasks with classes: classification, multi_label, ordinal. Other tasks see the rows as they are.",
            )
        for source, given in config.inputs.items():
            problem = own.mixing.cls.refusal(source, given.cls.modality)
            if problem is not None:
                yield Problem(path, problem)


def _unlabelled(config: Config) -> Iterator[Problem]:
    from polytask.tasks.unlabelled import require_probabilities

    inner = None
    with suppress(UserError):  # said where the schedule is
        inner = config.schedule.create().inner
    for name, own in config.training.tasks.items():
        if own.unlabelled is None or name not in config.tasks:
            continue
        path = ("training", "tasks", name, "unlabelled")
        if getattr(config.tasks[name].cls, "reads", "vector") != "vector":
            yield Problem(
                path,
                f"the task '{name}' ({config.tasks[name].type}) answers for positions, which two views of a row may "
                "have in different places. Rows without labels teach tasks with one answer a row alone: leave it out "
                "here.",
            )
            continue
        if inner is not None:
            yield Problem(
                path,
                f"in the schedule '{config.schedule.type}', steps are taken on trial, and rows without labels have no "
                "part in them. Leave it out, or take another schedule, such as joint or alternating.",
            )
        try:
            require_probabilities(own.unlabelled.create(), name, config.tasks[name].cls)
        except UserError as error:
            yield Problem(path, str(error))


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
    known = _metrics(tasks[task])
    if known is not None and metric not in known:
        return f"the task '{task}' has no metric '{metric}'.{closest(metric, known)} Allowed: {listing(known)}."
    return None
