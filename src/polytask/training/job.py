"""All that a training needs, made from a configuration and checked, before anything is written."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from polytask.balancing import Balancer
from polytask.config import Config, TrainingConfig
from polytask.data.loader import Loader
from polytask.data.preparation import Preparation
from polytask.data.splits import Split
from polytask.data.summary import TargetRecord, describe
from polytask.errors import UserError, at_key
from polytask.model import MultiTaskModel
from polytask.training.costs import Costs, count_costs
from polytask.training.init_from import Start
from polytask.training.module import MultiTaskModule
from polytask.training.saved_model import ModelDescription
from polytask.training.selection import Best
from polytask.training.sources import Sources, open_sources
from polytask.training.transfer import Transfer

logger = logging.getLogger("polytask")


@dataclass(frozen=True)
class Job:
    """A training, ready to start.

    Attributes:
        config: What was asked for.
        sources: The data.
        preparation: Fitted on the training part.
        description: What the model consists of.
        model: The network.
        module: The training steps.
        train: Batches of the training part.
        valid: Batches of the validation part; None where there is none.
    """

    config: Config
    sources: Sources
    preparation: Preparation
    description: ModelDescription
    model: MultiTaskModel
    module: MultiTaskModule
    train: Loader
    valid: Loader | None

    def summarise_targets(self) -> list[TargetRecord]:
        """Per task and part: rows, labels, mean and spread or class balance."""
        parts = {name: (part.table, part.rows) for name, part in self.sources.parts.items()}
        return describe(parts, self.preparation)

    def count_costs(self) -> Costs:
        """What a prediction for one row costs, beside a network for each task with the same encoder."""
        alone = replace(self.description, sharing={"type": "hard", "parameters": {}}, relations=[])
        single, _ = alone.build(self.preparation.shapes)
        return count_costs(self.model, single, _inputs_of_one_row(self.train))

    def count_parameters(self) -> dict[str, int]:
        """How many parameters there are, and how many of them more than one task's loss reaches."""
        shared = self.model.shared_parameters()
        return {
            "all": sum(parameter.numel() for parameter in self.model.parameters()),
            "shared": sum(parameter.numel() for parameter in shared),
        }


def _inputs_of_one_row(loader: Loader) -> Mapping[str, Any]:
    return next(iter(loader)).part(torch.tensor([0])).inputs


def make_job(config: Config, split: Split | None = None, description: ModelDescription | None = None) -> Job:
    """Read and check the data, and build the model.

    Args:
        config: What is asked for.
        split: The split of the run that is resumed.
        description: The model of the run that is resumed.

    Raises:
        UserError: The data or the configuration do not allow this training.
    """
    settings = config.training
    _check_device(settings)
    sources = open_sources(config.data, split)
    part = sources.parts["train"]
    start = None
    if description is None:
        preparation = Preparation.fit(
            part.table,
            part.rows,
            {name: spec.create() for name, spec in config.inputs.items()},
            {name: spec.cls.target_spec({**spec.parameters, "name": name}) for name, spec in config.tasks.items()},
            reserved=_split_columns(config),
        )
        description = ModelDescription.of(config, preparation)
        if config.model.init_from is not None:
            start = Start.read(config.model.init_from, description, preparation)
    else:
        preparation = description.restore_preparation()
    torch.manual_seed(settings.seed)
    with at_key("model"):
        model, description = description.build(preparation.shapes)
    if start is not None:
        start.apply(model, description)
    loaders = {
        name: preparation.loader(
            part.table,
            part.rows,
            batch_size=settings.batch_size,
            training=name == "train",
            seed=settings.seed,
            workers=settings.workers,
            pin_memory=torch.cuda.is_available(),
        )
        for name, part in sources.parts.items()
        if name != "test"
    }
    return Job(
        config=config,
        sources=sources,
        preparation=preparation,
        description=description,
        model=model,
        module=make_module(config, model, batches=len(loaders["train"])),
        train=loaders["train"],
        valid=loaders.get("valid"),
    )


def _check_device(settings: TrainingConfig) -> None:
    """Make sure that what is asked for is there: Lightning would fail late, or take something else."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(settings.accelerator, True):
        raise UserError(
            f"training.accelerator is {settings.accelerator}, but there is no such device here. "
            "Allowed everywhere: auto, cpu."
        )
    if settings.precision == "16-mixed" and (settings.accelerator == "cpu" or not any(there.values())):
        raise UserError(
            "training.precision is 16-mixed, but float16 needs a GPU and there is none here. Allowed on the CPU: 32, "
            "bf16-mixed."
        )


def _split_columns(config: Config) -> list[str]:
    """The column that the rows were split by is no input, unless it is named as one."""
    split = config.data.split
    if split.column is None or split.by not in ("group", "column"):
        return []
    return [split.column] if isinstance(split.column, str) else list(split.column)


def make_module(config: Config, model: MultiTaskModel, batches: int) -> MultiTaskModule:
    """The training steps for a model.

    Args:
        config: What is asked for.
        model: The network.
        batches: Batches in one epoch.
    """
    settings = config.training
    stopping = settings.early_stopping
    with at_key("balancing"):
        balancer: Balancer = config.balancing.create()
        balancer.prepare(model.task_names)
    return MultiTaskModule(
        model,
        balancer,
        optimizer=settings.optimizer.create(),
        lr_schedule=settings.lr_schedule.create(),
        transfer=make_transfer(config, model),
        best=Best(settings.selection),
        stopping=None if stopping is None else Best(stopping.metric, stopping.patience, stopping.min_delta),
        steps_per_epoch=math.ceil(batches / settings.accumulate),
        epochs=settings.epochs,
        accumulate=settings.accumulate,
        gradient_clip=settings.gradient_clip,
        log_every=settings.log_every,
        seed=settings.seed,
    )


def make_transfer(config: Config, model: MultiTaskModel) -> Transfer:
    """Which stages learn when, from `training.transfer`."""
    wanted = config.training.transfer
    if wanted.freeze is None or wanted.freeze is False:
        frozen = 0
    else:
        with at_key("training.transfer.freeze"):
            frozen = model.trunk.depth_of(None if wanted.freeze is True else wanted.freeze)
    return Transfer(frozen, wanted.unfreeze_every, wanted.layer_decay)
