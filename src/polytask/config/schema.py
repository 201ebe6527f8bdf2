"""The `data` and `model` parts of a configuration, and what all parts are made of, as pydantic models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    field_validator,
    model_validator,
)

from polytask.config.component import ComponentSpec, OfKind, make_component
from polytask.config.derive import STRICT, Number
from polytask.config.families import Kind
from polytask.data.column_types import ColumnType
from polytask.data.readers.options import MISSING, Format
from polytask.data.splits import By

InputSpec = Annotated[ComponentSpec, OfKind(Kind.INPUT)]
TaskSpec = Annotated[ComponentSpec, OfKind(Kind.TASK)]
EncoderSpec = Annotated[ComponentSpec, OfKind(Kind.ENCODER)]
OptionalFusion = Annotated[ComponentSpec | None, OfKind(Kind.FUSION, optional=True)]
SharingSpec = Annotated[ComponentSpec, OfKind(Kind.SHARING)]
RelationSpec = Annotated[ComponentSpec, OfKind(Kind.RELATION)]
BalancerSpec = Annotated[ComponentSpec, OfKind(Kind.BALANCER)]
OptimizerSpec = Annotated[ComponentSpec, OfKind(Kind.OPTIMIZER)]
ScheduleSpec = Annotated[ComponentSpec, OfKind(Kind.SCHEDULE)]
SamplerSpec = Annotated[ComponentSpec, OfKind(Kind.SAMPLER)]
OptionalSampler = Annotated[ComponentSpec | None, OfKind(Kind.SAMPLER, optional=True)]
OptionalMixing = Annotated[ComponentSpec | None, OfKind(Kind.MIXING, optional=True)]
OptionalUnlabelled = Annotated[ComponentSpec | None, OfKind(Kind.UNLABELLED, optional=True)]
LRScheduleSpec = Annotated[ComponentSpec, OfKind(Kind.LR_SCHEDULE)]

DEFAULTS: dict[tuple[str, ...], dict[str, Any]] = {
    ("balancing",): {"type": "equal"},
    ("model", "sharing"): {"type": "hard"},
    ("schedule",): {"type": "joint"},
    ("training", "sampler"): {"type": "shuffled"},
    ("training", "optimizer"): {"type": "adamw"},
    ("training", "lr_schedule"): {"type": "cosine", "warmup": 0.05},
}
"""The components that stand where none is given."""

ENCODERS = {
    "tabular": {"type": "mlp"},
    "image": {"type": "cnn"},
    "text": {"type": "transformer"},
    "graph": {"type": "gin"},
    "audio": {"type": "audio_cnn"},
    "sequence": {"type": "tcn"},
}
"""The encoder that reads an input where none is given, by modality."""

FUSION = {"type": "concat"}
"""The fusion of several inputs where none is given."""


class Section(BaseModel):
    """A part of a configuration: unknown keys and values of another type are errors."""

    model_config = ConfigDict(**STRICT, use_attribute_docstrings=True)


class SplitConfig(Section):
    """How the training table is split where validation or test data are not given."""

    by: By = "random"
    """`random`: rows at random. `stratified`: at random within each value of `column`, so that all parts have the same
    shares. `group`: rows with the same value of `column` stay together. `scaffold`: molecules, SMILES in `column`, of
    the same scaffold stay together; the largest groups are for training, and `seed` changes nothing.
    `scaffold_balanced`: the same with the groups in random order. `column`: `column` itself says train, valid or
    test."""
    column: str | list[str] | None = None
    """The column that `by` needs; `stratified` takes several as well."""
    valid: Number = Field(0.1, ge=0, lt=1)
    """Share of the rows for validation."""
    test: Number = Field(0.1, ge=0, lt=1)
    """Share of the rows for testing."""
    seed: int = Field(0, ge=0)
    """Another seed is another split."""


class DataConfig(Section):
    """Where the rows of one source come from. Relative paths start at the configuration file's folder."""

    train: str
    """A table (CSV, TSV, Parquet, JSON Lines, Arrow), a folder of images, or the name of a built-in data set."""
    valid: str | None = None
    """A table with validation data; null: split from `train`."""
    test: str | None = None
    """A table with test data; null: split from `train`."""
    format: Format = "auto"
    """The tables' format; `auto`: from the file's name and content."""
    delimiter: str | None = None
    """What separates the columns of a CSV file; null: found out."""
    quoting: bool = True
    """Whether double quotes in a CSV file enclose a value."""
    encoding: str = "utf-8"
    """The text encoding of the files."""
    names: list[str] | None = None
    """The names of the columns of a CSV file without a header line (null: its first line has them), or of plain columns
    of words (null: `words`, `column2`..., `tags`)."""
    missing: list[str] = Field(default_factory=lambda: list(MISSING))
    """Texts that stand for a missing value."""
    columns: dict[str, Annotated[ColumnType, Strict(False)]] = Field(default_factory=dict)
    """Types of columns, by name in the file, where the one that was found out is not the right one."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Other names for columns, by name in the file: everything but `columns` uses these."""
    key: str | None = None
    """The column that says which row is which: each of its values once in a table. Sources that have a key are joined:
    rows with the same value become one."""
    split: SplitConfig = Field(default_factory=SplitConfig)

    def read_options(self) -> dict[str, Any]:
        """The parameters of `polytask.data.readers.ReadOptions`."""
        names = ("format", "delimiter", "quoting", "encoding", "names", "missing", "columns")
        return {name: getattr(self, name) for name in names}


def _one_or_several(value: Any) -> Any:
    """One source, or several with names: decided by the keys, so that a mistake is reported for what was meant."""
    if not isinstance(value, Mapping) or isinstance(value.get("train"), str):
        return value if isinstance(value, DataConfig) else DataConfig.model_validate(value)
    named = [name for name, part in value.items() if isinstance(part, Mapping | DataConfig)]
    if not any(name not in DataConfig.model_fields for name in named):
        return DataConfig.model_validate(value)
    return _SEVERAL.validate_python(value)


DataSpec = Annotated[DataConfig | dict[str, DataConfig], BeforeValidator(_one_or_several)]
_SEVERAL: TypeAdapter[dict[str, DataConfig]] = TypeAdapter(dict[str, DataConfig], config=ConfigDict(strict=True))


class InitFromConfig(Section):
    """Finished runs that a training starts from: train tasks separately, splice the networks, then train together."""

    runs: dict[str, str] = Field(min_length=1)
    """For a task, the folder of a run in which it was trained, alone or over stages shared with others, on the same
    inputs and with the same encoder. Relative paths start at the working directory."""
    how: Literal["average", "stack", "trunk"] = "average"
    """`average`: each stage starts from the mean of the runs' weights of the tasks that share it, as do statistics of
    batch normalisation; runs that started from the same weights (the same seed, or the same pretrained ones) average
    well, others do not. `stack`: the runs' encoders stand side by side, with a gate for each task: the sharing scheme
    `stacked_experts`, which stands where no other is given. Heads start from the runs' where they fit. `trunk`: the
    encoder of one run, in which the task was not trained, with its inputs as they were fitted there; heads start anew.
    `polytask train CONFIG --adapt RUN --task NEW` writes it."""

    @field_validator("runs")
    @classmethod
    def _absolute(cls, runs: dict[str, str]) -> dict[str, str]:
        return {task: os.path.abspath(Path(run).expanduser()) for task, run in runs.items()}  # noqa: PTH100


class ModelConfig(Section):
    """The network between the inputs and the heads."""

    encoders: dict[str, EncoderSpec] = Field(default_factory=dict)
    """An encoder for each input, by the input's name; default: one that suits the input."""
    fusion: OptionalFusion = None
    """How the features of several inputs become one; null: `concat` where there are several, and else none."""
    sharing: SharingSpec = Field(default_factory=lambda: make_component(Kind.SHARING, DEFAULTS["model", "sharing"]))
    """Which parameters the tasks have in common."""
    relations: list[RelationSpec] = Field(default_factory=list)
    """Which tasks read other tasks' predictions or features."""
    init_from: InitFromConfig | None = None
    """Finished runs whose weights a new training starts from; null: new weights."""

    @model_validator(mode="after")
    def _stacked(self) -> ModelConfig:
        """Side by side is a sharing scheme of its own."""
        if self.init_from is not None and self.init_from.how == "stack" and "sharing" not in self.model_fields_set:
            scheme = {"type": "stacked_experts", "experts": list(self.init_from.runs)}
            self.sharing = make_component(Kind.SHARING, scheme)
        return self
