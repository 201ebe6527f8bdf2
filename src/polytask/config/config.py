"""The whole configuration."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, model_validator

from polytask.config.checks import (
    hide_columns,
    learn_from_unlabelled,
    problems_in,
    steering_columns,
    target_columns,
)
from polytask.config.component import ComponentSpec, make_component
from polytask.config.data_checks import share_split, source_names, with_joined
from polytask.config.document import Document, KeyPath, read_document, write_document
from polytask.config.errors import Problem, problems_of, user_error, validation_error
from polytask.config.families import Kind, family_of
from polytask.config.overrides import apply_overrides
from polytask.config.schema import (
    DEFAULTS,
    ENCODERS,
    FUSION,
    BalancerSpec,
    DataConfig,
    DataSpec,
    InputSpec,
    ModelConfig,
    ScheduleSpec,
    Section,
    TaskSpec,
)
from polytask.config.training_schema import MEAN_GAIN, TrainingConfig
from polytask.errors import UserError, closest, listing


class Config(Section):
    """What to train, on what, and how: checked and complete."""

    name: str | None = None
    """The run's name; null: the file's."""
    data: DataSpec
    """Where the rows come from: one source, or several by names of your choice."""
    inputs: dict[str, InputSpec] = Field(min_length=1)
    """What the network reads, by names of your choice."""
    tasks: dict[str, TaskSpec] = Field(min_length=1)
    """What it learns, by names of your choice. A task's `target` is the column of its name unless it is given."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    """The network."""
    balancing: BalancerSpec = Field(default_factory=lambda: make_component(Kind.BALANCER, DEFAULTS["balancing",]))
    """How the tasks' losses become one update."""
    schedule: ScheduleSpec = Field(default_factory=lambda: make_component(Kind.SCHEDULE, DEFAULTS["schedule",]))
    """Which tasks take part in which step."""
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    """How the network is trained."""

    @classmethod
    def from_mapping(
        cls, data: Mapping[str, Any], source: str = "the configuration", folder: str | Path | None = None
    ) -> Config:
        """Check and complete plain values, as they stand in YAML.

        Args:
            data: The values.
            source: What messages call them.
            folder: Where relative paths start, and modules of the user's own are looked for; None: the working
                directory.

        Raises:
            UserError: Something is wrong; all of it is listed.
        """
        return _validated(Document(source, data), Path(folder) if folder is not None else Path.cwd())

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, complete; `from_mapping` makes an equal configuration of them."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The complete configuration as YAML text, with absolute paths; it loads back equal."""
        return write_document(self.to_mapping())

    @property
    def sources(self) -> dict[str, DataConfig]:
        """The sources of the rows by name; one without a name is called `data`."""
        return {"data": self.data} if isinstance(self.data, DataConfig) else self.data

    def run_name(self) -> str:
        """The name of the folder for a run of it."""
        return self.name or "run"

    def only_task(
        self, task: str, sources: Collection[str] | None = None, inputs: Collection[str] | None = None
    ) -> Config:
        """The same recipe for one task alone: the single-task baseline.

        The other tasks' targets stay out of the inputs, and nothing is left to share or to balance: the network is the
        encoder and the task's head.

        Args:
            task: The task.
            sources: The names of the sources that label it, where there are several: those that are neither among
                them nor joined with them are left out. None: those that the task names, or else all. If it learns from
                rows without labels, all stay.
            inputs: The names of the inputs that its rows have; None: all. The fusion stays, even of one input.

        Raises:
            UserError: There is no such task.
        """
        if task not in self.tasks:
            raise UserError(f"There is no task '{task}'.{closest(task, self.tasks)} The tasks: {listing(self.tasks)}.")
        alone = self.to_mapping()
        targets = {name: target_columns(name, spec) for name, spec in self.tasks.items()}
        others = {column for columns in targets.values() for column in columns}
        others = others.union(steering_columns(self)).difference(targets[task])
        hide_columns(alone["inputs"], others)
        alone["tasks"] = {task: alone["tasks"][task]}
        if inputs is not None:
            alone["inputs"] = {name: given for name, given in alone["inputs"].items() if name in inputs}
            for section in (alone["model"], alone["training"]):
                own = {name: each for name, each in section["encoders"].items() if name in inputs}
                if section["encoders"] and not own and self.one_encoder:
                    # It reads these inputs too, but under the name of another.
                    own = dict(zip(alone["inputs"], section["encoders"].values(), strict=False))
                section["encoders"] = own
        if alone["tasks"][task].get("auxiliary"):
            alone["tasks"][task]["auxiliary"] = False
        if not isinstance(self.data, DataConfig):
            labelling = source_names(self.tasks[task]) if sources is None else sources
            if learn_from_unlabelled(self, [task]):
                labelling = None
            alone["data"] = {name: alone["data"][name] for name in with_joined(self.data, labelling)}
        alone["model"] |= {"sharing": DEFAULTS["model", "sharing"], "relations": [], "init_from": None}
        alone["balancing"] = DEFAULTS["balancing",]
        alone["schedule"] = DEFAULTS["schedule",]
        training = alone["training"]
        training["tasks"] = {name: own for name, own in training["tasks"].items() if name == task}
        if training["epoch_length"] in self.tasks:
            training["epoch_length"] = "rows"
        if not _concerns(training["selection"], task):
            training["selection"] = MEAN_GAIN
        if training["early_stopping"] and not _concerns(training["early_stopping"]["metric"], task):
            training["early_stopping"]["metric"] = MEAN_GAIN
        return Config.from_mapping(alone)

    @model_validator(mode="after")
    def _complete(self, info: ValidationInfo) -> Config:
        """Fill in what depends on several parts, then check what they demand of each other."""
        folder = (info.context or {}).get("folder") or Path.cwd()
        self._resolve_paths(folder)
        share_split(self.sources)
        for name, task in self.tasks.items():
            if "target" in task.parameters and task.parameters["target"] is None:
                self.tasks[name] = ComponentSpec(task.type, {**task.parameters, "target": name}, task.kind)
        self.model.encoders = {**self._default_encoders(), **self.model.encoders}
        if self.model.fusion is None and len(self.inputs) > 1:
            self.model.fusion = make_component(Kind.FUSION, FUSION)
        problems = problems_in(self)
        if problems:
            raise validation_error(problems)
        return self

    @property
    def one_encoder(self) -> bool:
        """Whether one encoder reads all inputs."""
        return self.model.fusion is not None and not self.model.fusion.cls.fuses

    def _default_encoders(self) -> dict[str, ComponentSpec]:
        """An encoder for each input, in the inputs' order: the one given, or else one that suits it.

        Where one encoder reads all inputs: the one given, or else one for the first.
        """
        chosen: dict[str, ComponentSpec] = {}
        for name, spec in self.inputs.items():
            if self.one_encoder and (chosen or (self.model.encoders and name not in self.model.encoders)):
                continue
            default = ENCODERS.get(spec.cls.modality)
            if name in self.model.encoders:
                chosen[name] = self.model.encoders[name]
            elif default is not None:
                chosen[name] = make_component(Kind.ENCODER, default)
            else:
                path = ("model", "encoders")
                missing = f"no encoder reads {spec.cls.modality} by default; give one for the input '{name}'."
                raise validation_error([Problem(path, missing)])
        return chosen

    def _resolve_paths(self, folder: Path) -> None:
        from polytask.data.builtin import builtin_names

        for source in self.sources.values():
            for part in ("train", "valid", "test"):
                path = getattr(source, part)
                if path is None:
                    continue
                absolute = os.path.abspath(folder / Path(path).expanduser())  # noqa: PTH100 (resolve follows links)
                if path not in builtin_names() or Path(absolute).exists():
                    setattr(source, part, absolute)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        path: A YAML file.
        overrides: Changes to it, as `training.epochs=3`.

    Raises:
        UserError: The file or an override is wrong; the message lists what, each with its line.
    """
    path = Path(path)
    document = apply_overrides(read_document(path), overrides, _default_at)
    config = _validated(document, path.absolute().parent)
    if config.name is None:
        config.name = path.stem
    return config


def _validated(document: Document, folder: Path) -> Config:
    if not isinstance(document.data, Mapping):
        raise UserError(f"{document.source} is a {type(document.data).__name__}, not a mapping of keys to values.")
    try:
        return Config.model_validate(document.data, context={"folder": folder})
    except ValidationError as error:
        raise user_error(document, problems_of(error, document.data, _keys_of_section)) from None


def _concerns(criterion: str, task: str) -> bool:
    return criterion.partition("/")[0] in (MEAN_GAIN, task)


def _default_at(path: KeyPath, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The component that stands at a path by default."""
    if path[:2] == ("model", "encoders") and len(path) == 3:
        return _default_encoder(data.get("inputs"), path[2])
    if path == ("model", "fusion"):
        return FUSION
    return DEFAULTS.get(path)  # type: ignore[arg-type]


def _default_encoder(inputs: Any, name: str | int) -> Mapping[str, Any] | None:
    given = inputs.get(name) if isinstance(inputs, Mapping) else None
    kind = given.get("type") if isinstance(given, Mapping) else given
    family = family_of(Kind.INPUT)
    if not isinstance(kind, str) or kind not in family.names():
        return None
    return ENCODERS.get(family.get(kind).modality)


def _keys_of_section(path: KeyPath) -> Iterable[str]:
    """The keys that the section at `path` can have."""
    section: type[BaseModel] = Config
    for key in path:
        if str(key) not in section.model_fields:
            continue  # the name of a source or a task
        annotation = section.model_fields[str(key)].annotation
        parts = (annotation, *get_args(annotation))
        section = next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), section)
    return section.model_fields
