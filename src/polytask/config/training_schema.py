"""How to train: the `training` part of a configuration, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from polytask.config.component import make_component
from polytask.config.derive import Number
from polytask.config.families import Kind
from polytask.config.schema import (
    DEFAULTS,
    LRScheduleSpec,
    OptimizerSpec,
    OptionalMixing,
    OptionalSampler,
    OptionalUnlabelled,
    SamplerSpec,
    Section,
)

Criterion = str
"""`mean_gain`, or a metric of one task on the validation data: `task/valid/metric`."""
MEAN_GAIN = "mean_gain"


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
