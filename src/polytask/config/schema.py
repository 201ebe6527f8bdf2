"""The parts of a configuration, as pydantic models."""

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
    WithJsonSchema,
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

Criterion = str
"""`mean_gain`, or a metric of one task on the validation data: `task/valid/metric`."""
MEAN_GAIN = "mean_gain"


DEFAULTS: dict[tuple[str, ...], dict[str, Any]] = {
    ("balancing",): {"type": "equal"},
    ("model", "sharing"): {"type": "hard"},
    ("schedule",): {"type": "joint"},
    ("training", "sampler"): {"type": "shuffled"},
    ("training", "optimizer"): {"type": "adamw"},
    ("training", "lr_schedule"): {"type": "cosine", "warmup": 0.05},
}
"""The components that stand where none is given."""

ENCODERS = {"tabular": {"type": "mlp"}, "image": {"type": "cnn"}, "text": {"type": "transformer"}}
"""The encoder that reads an input where none is given, by modality."""


class Section(BaseModel):
    """A part of a configuration: unknown keys and values of another type are errors."""

    model_config = ConfigDict(**STRICT, use_attribute_docstrings=True)


class SplitConfig(Section):
    """How the training table is split where validation or test data are not given."""

    by: By = "random"
    """`random`: rows at random. `stratified`: at random within each value of `column`, so that all parts have the same
    shares. `group`: rows with the same value of `column` stay together. `column`: `column` itself says train, valid or
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
    """The names of the columns of a CSV file without a header line; null: its first line has them."""
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


class EarlyStoppingConfig(Section):
    """When to stop before the last epoch."""

    patience: int = Field(5, ge=1)
    """Stop after this many epochs without a better value."""
    metric: Criterion = MEAN_GAIN
    """What is watched: `mean_gain`, or one task's metric on validation data as `task/valid/metric`."""
    min_delta: Number = Field(0.0, ge=0)
    """How much better a value has to be to count."""


class TransferConfig(Section):
    """Which stages of a pretrained encoder learn, and how fast."""

    freeze: bool | str | int | None = None
    """What does not learn at first: true for the whole encoder, or its stages up to a name or a number."""
    unfreeze_every: int | None = Field(None, ge=1)
    """Let one more stage learn, from the top down, each time this many epochs have passed."""
    layer_decay: Number | None = Field(None, gt=0, le=1)
    """The learning rate of a stage is this times that of the stage above it."""


def _precision(value: Any) -> Any:
    """`precision: 32` is a number in YAML."""
    return "32" if value == 32 and not isinstance(value, bool) else value


class LROnPlateauConfig(Section):
    """How a task's learning rate falls when it gets no better."""

    factor: Number = Field(0.5, gt=0, lt=1)
    """What the rate is multiplied by."""
    patience: int = Field(3, ge=0)
    """Epochs without a better value of the task's main metric that are tolerated; the next one lowers the rate."""


class TaskStoppingConfig(Section):
    """When one task stops before the others."""

    patience: int = Field(5, ge=1)
    """Stop after this many epochs, of those that the task takes part in, without a better value."""
    metric: str | None = None
    """The metric of the task that is watched, or `loss`; null: its main metric."""
    min_delta: Number = Field(0.0, ge=0)
    """How much better a value has to be to count."""


class RatesConfig(Section):
    """How fast some parameters learn, beside the others."""

    lr_scale: Number = Field(1.0, gt=0)
    """What the learning rate is multiplied by."""
    weight_decay: Number | None = Field(None, ge=0)
    """Weight decay; null: the optimiser's."""


class TaskTrainingConfig(RatesConfig):
    """How one task is trained, where it differs from the others.

    Its own parameters are those that no other task's loss reaches: its head, and its own stages. Rates and clipping
    concern these alone.
    """

    gradient_clip: Number | None = Field(None, gt=0)
    """Greatest norm of the gradient of its own parameters, before `training.gradient_clip`; null: as it is."""
    lr_on_plateau: LROnPlateauConfig | None = None
    """How the learning rate of its own parameters falls when it gets no better; null: as all others."""
    early_stopping: TaskStoppingConfig | None = None
    """When it stops before the others; null: with them. When all tasks have stopped, training ends."""
    when_stopped: Literal["freeze_head", "leave_loss"] = "freeze_head"
    """What stopping means. `freeze_head`: its own parameters stay as they are, and its loss goes on shaping what is
    shared. `leave_loss`: its loss is left out, and a schedule gives it no more turns."""

    batch_size: int | None = Field(None, ge=1)
    """Rows in a batch of this task alone, and what it has in one of `schedule: {type: joint, draw: tasks}`; null:
    `training.batch_size`."""
    sampler: OptionalSampler = None
    """In which order, and how often, rows are drawn for this task alone; null: as `training.sampler` says."""
    mixing: OptionalMixing = None
    """How rows are mixed with each other for this task, a `classification` or `multi_label`; null: not at all."""
    unlabelled: OptionalUnlabelled = None
    """What it learns from rows that it has no label for; null: nothing."""


class TrainingConfig(Section):
    """How the network is trained."""

    epochs: int = Field(10, ge=1)
    """How many epochs there are; after each one the model is validated, and a checkpoint is written."""
    epoch_length: Annotated[int, Field(ge=1)] | str = "rows"
    """Steps in an epoch: a number; `rows`: as many as it takes to see the rows of each turn of the schedule once, added
    up; `largest`, `smallest` or a task: until the rows of that turn have been seen once."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps after which a checkpoint is written within an epoch too, for epochs that take long; null: none."""
    batch_size: int = Field(64, ge=1)
    """Rows in one batch."""
    unlabelled_batch_size: int | None = Field(None, ge=1)
    """Rows without labels in one step, where a task learns from them (`training.tasks.NAME.unlabelled`); null:
    `training.batch_size`."""
    sampler: SamplerSpec = Field(default_factory=lambda: make_component(Kind.SAMPLER, DEFAULTS["training", "sampler"]))
    """In which order, and how often, rows are drawn."""
    tasks: dict[str, TaskTrainingConfig] = Field(default_factory=dict)
    """What is other for single tasks, by their names."""
    encoders: dict[str, RatesConfig] = Field(default_factory=dict)
    """The rates of an input's encoder, by the input's name; for stages that are one task's own, the task's multiply
    them."""
    optimizer_states: Literal["shared", "per_task"] = "shared"
    """`per_task`: what the optimiser remembers of shared parameters (Adam's moments) is kept apart for each turn of the
    schedule, as if each turn had an optimiser of its own."""
    optimizer: OptimizerSpec = Field(
        default_factory=lambda: make_component(Kind.OPTIMIZER, DEFAULTS["training", "optimizer"])
    )
    """What changes the parameters."""
    lr_schedule: LRScheduleSpec = Field(
        default_factory=lambda: make_component(Kind.LR_SCHEDULE, DEFAULTS["training", "lr_schedule"])
    )
    """How the learning rate changes over the training."""
    gradient_clip: Number | None = Field(1.0, gt=0)
    """Greatest norm of the gradient of all parameters together; null: as it is."""
    accumulate: int = Field(1, ge=1)
    """Batches of one step; its gradient is that of one batch of all their rows."""
    precision: Annotated[
        Literal["32", "bf16-mixed", "16-mixed"],
        BeforeValidator(_precision),
        WithJsonSchema({"enum": ["32", 32, "bf16-mixed", "16-mixed"]}),
    ] = "32"
    """The numbers that are computed with."""
    early_stopping: EarlyStoppingConfig | None = None
    """When to stop before the last epoch; null: never."""
    selection: Criterion = MEAN_GAIN
    """What the best epoch is chosen by: `mean_gain`, or one task's metric on validation data as
    `task/valid/metric`."""
    keep_best_per_task: bool = False
    """Whether the checkpoint of each task's own best epoch, by its main metric, is kept as
    `checkpoints/best-TASK.ckpt`."""
    transfer: TransferConfig = Field(default_factory=TransferConfig)
    seed: int = Field(0, ge=0)
    """Everything random follows from it."""
    workers: int = Field(0, ge=0)
    """Processes that prepare batches; 0: none beside the training itself."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The device; `auto`: a GPU where there is one."""
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """How many devices train together, each in a process of its own with its part of every batch; `auto`: all GPUs. On
    the CPU: that many processes."""
    tensorboard: bool = True
    """Whether to write curves for TensorBoard."""
    log_every: int = Field(20, ge=1)
    """Steps between two looks at the losses."""
