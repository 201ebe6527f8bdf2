"""All that a training needs, made from a configuration and checked, before anything is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch

from polytask.config import Config, TrainingConfig
from polytask.config.checks import steering_columns
from polytask.data.encoded_rows import EncodedRows
from polytask.data.loader import Loader
from polytask.data.overlap import LabelCounts, count_labels
from polytask.data.preparation import Preparation
from polytask.data.request import Request, Share
from polytask.data.splits import Split
from polytask.data.summary import TargetRecord, describe
from polytask.errors import UserError, at_key
from polytask.model import MultiTaskModel
from polytask.schedules import Freeze, Schedule
from polytask.sharing.sharing import EncoderTrunk
from polytask.tasks.unlabelled import Unlabelled
from polytask.training.adapt import TrunkStart
from polytask.training.auxiliary import make_balancer, warn_of_auxiliary_criteria
from polytask.training.costs import Costs, count_costs
from polytask.training.held_out import held_out_rows
from polytask.training.init_from import Start
from polytask.training.mixed_batches import MixedBatches, check_mixings, mixings_of
from polytask.training.module import MultiTaskModule
from polytask.training.own_training import Rates, Slowing, Stopping, TaskRecipe
from polytask.training.plan import Plan, Steps
from polytask.training.saved_model import ModelDescription
from polytask.training.selection import Best
from polytask.training.semi_supervised import SemiSupervised, require_two_views
from polytask.training.sources import Sources, open_sources
from polytask.training.task_streams import Sampling
from polytask.training.transfer import Transfer

logger = logging.getLogger("polytask")

_TRIED = 8
"""Rows that the network is tried on, where it has to be."""


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
        train: Steps on the training part.
        valid: Batches of the validation part; None where there is none.
        share: The part of each batch that is this process's work.
    """

    config: Config
    sources: Sources
    preparation: Preparation
    description: ModelDescription
    model: MultiTaskModel
    module: MultiTaskModule
    train: Steps
    valid: Loader | None
    share: Share

    @cached_property
    def labels(self) -> LabelCounts:
        """The labels of the training part, counted once."""
        part = self.sources.parts["train"]
        return count_labels(part.table, part.rows, self.preparation)

    def summarise_targets(self) -> list[TargetRecord]:
        """Per task and part: rows, labels, mean and spread or class balance."""
        parts = {name: (part.table, part.rows) for name, part in self.sources.parts.items()}
        return describe(parts, self.preparation)

    def count_costs(self) -> Costs:
        """What a prediction for one row costs, beside a network for each task with the same encoder."""
        alone = replace(self.description, sharing={"type": "hard", "parameters": {}}, relations=[])
        single, _ = alone.build(self.preparation.shapes)
        return count_costs(self.model, single, _inputs_of_one_row(self.train.loader))

    def count_parameters(self) -> dict[str, int]:
        """How many parameters there are, and how many of them more than one task's loss reaches."""
        shared = self.model.shared_parameters()
        return {
            "all": sum(parameter.numel() for parameter in self.model.parameters()),
            "shared": sum(parameter.numel() for parameter in shared),
        }


def _inputs_of_one_row(loader: Loader) -> Mapping[str, Any]:
    return next(iter(loader)).part(torch.tensor([0])).inputs


def make_job(
    config: Config,
    split: Split | None = None,
    description: ModelDescription | None = None,
    share: Share = Share(),  # noqa: B008 (a tuple)
) -> Job:
    """Read and check the data, and build the model.

    Args:
        config: What is asked for.
        split: The split of the run that is resumed.
        description: The model of the run that is resumed.
        share: The part of each batch that is this process's work.

    Raises:
        UserError: The data or the configuration do not allow this training.
    """
    settings = config.training
    _check_device(settings)
    sources = open_sources(config, split)
    part = sources.parts["train"]
    start: Start | TrunkStart | None = None
    if description is None:
        wanted = config.model.init_from
        trunk = None
        if wanted is not None and wanted.how == "trunk":
            trunk = start = TrunkStart.read(wanted, config.inputs)
        preparation = (Preparation.fit if trunk is None else trunk.prepare)(
            part.table,
            part.rows,
            {name: spec.create() for name, spec in config.inputs.items()},
            {name: spec.cls.target_spec({**spec.parameters, "name": name}) for name, spec in config.tasks.items()},
            reserved=[*sources.reserved, *steering_columns(config)],
        )
        description = ModelDescription.of(config, preparation)
        if wanted is not None and start is None:
            start = Start.read(wanted, description, preparation)
    else:
        preparation = description.restore_preparation()
    torch.manual_seed(settings.seed)
    with at_key("model"):
        model, description = description.build(preparation.shapes)
    if start is not None:
        start.apply(model, description)
    check_mixings(config, preparation.shapes, model)
    load = partial(
        preparation.loader,
        batch_size=settings.batch_size,
        seed=settings.seed,
        workers=settings.workers,
        pin_memory=torch.cuda.is_available(),
        share=share,
    )
    with at_key("schedule"):
        schedule: Schedule = config.schedule.create()
        if schedule.inner is not None and settings.accumulate > 1:
            raise UserError(
                f"training.accumulate is {settings.accumulate}, but in meta-learning a step has a batch for each inner "
                "step. Leave it at 1, and set training.batch_size."
            )
        if schedule.inner is not None and share.processes > 1:
            raise UserError("Meta-learning runs in one process: set training.devices to 1.")
        plan_for = partial(
            Plan,
            schedule,
            tasks=model.task_names,
            batch_size=settings.batch_size,
            batches=settings.accumulate if schedule.inner is None else schedule.inner.batches,
            sampler=settings.sampler.create(),
            own={
                name: Sampling(own.batch_size, None if own.sampler is None else own.sampler.create())
                for name, own in settings.tasks.items()
            },
            seed=settings.seed,
            epochs=settings.epochs,
            length=settings.epoch_length,
            unlabelled=tuple(name for name in model.task_names if name in uses_of_unlabelled(config)),
            unlabelled_batch_size=settings.unlabelled_batch_size,
        )
        train = load(part.table, part.rows, training=True, order=plan_for)
    valid = sources.parts.get("valid")
    if valid is None and schedule.wants_scores:
        raise UserError(
            f"schedule: '{config.schedule.type}' goes by scores on validation data here, but there are none. "
            "Give data.valid, or a data.split.valid above 0."
        )
    if valid is None:
        _require_no_scores(settings)
    _require_two_views(model, uses_of_unlabelled(config), train.encoded)
    steps = Steps(train, cast("Plan", train.order))
    valid_loader = None if valid is None else load(valid.table, valid.rows)
    rows = [loader.encoded for loader in (valid_loader, train) if loader is not None]
    module = make_module(config, model, steps.plan, rows)
    if share.processes > 1 and module.balancer.wants_validation:
        raise UserError(
            f"balancing: {config.balancing.type} looks ahead, in one process only. Set training.devices to 1, or take "
            "another method."
        )
    return Job(
        config=config,
        sources=sources,
        preparation=preparation,
        description=description,
        model=model,
        module=module,
        train=steps,
        valid=valid_loader,
        share=share,
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


def _require_no_scores(settings: TrainingConfig) -> None:
    """Make sure that no task waits for scores that never come."""
    for name, own in settings.tasks.items():
        for key in ("early_stopping", "lr_on_plateau"):
            if getattr(own, key) is not None:
                raise UserError(
                    f"training.tasks.{name}.{key} goes by scores on validation data, but there are none. Give "
                    "data.valid, or a data.split.valid above 0."
                )


def make_module(config: Config, model: MultiTaskModel, plan: Plan, rows: Sequence[EncodedRows] = ()) -> MultiTaskModule:
    """The training steps for a model.

    Args:
        config: What is asked for.
        model: The network.
        plan: Whose turn it is in each step.
        rows: Where a balancer that looks ahead finds rows to do so, in order of preference.
    """
    settings = config.training
    stopping = settings.early_stopping
    warn_of_auxiliary_criteria(config)
    with at_key("balancing"):
        balancer = make_balancer(config)
    mixings = mixings_of(config)
    return MultiTaskModule(
        model,
        balancer,
        optimizer=settings.optimizer.create(),
        lr_schedule=settings.lr_schedule.create(),
        transfer=make_transfer(config, model, plan.schedule.freezes),
        best=Best(settings.selection),
        stopping=None if stopping is None else Best(stopping.metric, stopping.patience, stopping.min_delta),
        plan=plan,
        steps_per_epoch=plan.steps,
        epochs=settings.epochs,
        gradient_clip=settings.gradient_clip,
        log_every=settings.log_every,
        seed=settings.seed,
        recipes=task_recipes(config, model),
        optimizer_states=settings.optimizer_states,
        semi_supervised=SemiSupervised(model, uses) if (uses := uses_of_unlabelled(config)) else None,
        held_out=held_out_rows(balancer, rows, model.task_names, batch_size=settings.batch_size, seed=settings.seed),
        mixed=MixedBatches(mixings, seed=settings.seed, parts=balancer.batches) if mixings else None,
    )


def make_transfer(config: Config, model: MultiTaskModel, freezes: Sequence[Freeze] = ()) -> Transfer:
    """Which stages learn when, from `training.transfer`, and from what the schedule freezes."""
    wanted = config.training.transfer
    if wanted.freeze is None or wanted.freeze is False:
        frozen = 0
    else:
        with at_key("training.transfer.freeze"):
            frozen = model.trunk.depth_of(None if wanted.freeze is True else wanted.freeze)
    with at_key("schedule.freeze"):
        spans = [(model.trunk.depth_of(None if stage is True else stage), start, end) for stage, start, end in freezes]
    encoder = config.training.encoders.get(model.trunk.input) if isinstance(model.trunk, EncoderTrunk) else None
    return Transfer(
        frozen,
        wanted.unfreeze_every,
        wanted.layer_decay,
        spans,
        tasks={
            name: Rates(own.lr_scale, own.weight_decay)
            for name, own in config.training.tasks.items()
            if own.lr_scale != 1 or own.weight_decay is not None or own.lr_on_plateau is not None
        },
        encoder=None if encoder is None else Rates(encoder.lr_scale, encoder.weight_decay),
    )


def uses_of_unlabelled(config: Config) -> dict[str, Unlabelled]:
    """How single tasks learn from rows without their labels, from `training.tasks`."""
    own = {name: each.unlabelled for name, each in config.training.tasks.items()}
    return {name: use.create() for name, use in own.items() if use is not None}


def _require_two_views(model: MultiTaskModel, uses: Mapping[str, Unlabelled], rows: EncodedRows) -> None:
    """Make sure that tasks which compare two views of a row have two."""
    if any(use.needs_other_view for use in uses.values()) and not rows.augmented:
        some = rows[Request(0, np.arange(min(len(rows), _TRIED)))]
        if some.error is not None:
            raise UserError(some.error)
        require_two_views(model, uses, some.batch)


def task_recipes(config: Config, model: MultiTaskModel) -> dict[str, TaskRecipe]:
    """How single tasks are trained, from `training.tasks`."""
    recipes = {}
    for name, own in config.training.tasks.items():
        slowing, stopping = own.lr_on_plateau, own.early_stopping
        recipes[name] = TaskRecipe(
            rates=Rates(own.lr_scale, own.weight_decay),
            gradient_clip=own.gradient_clip,
            slowing=None if slowing is None else Slowing(slowing.factor, slowing.patience),
            stopping=None
            if stopping is None
            else Stopping(stopping.patience, stopping.metric or model.tasks[name].metric, stopping.min_delta),
            when_stopped=own.when_stopped,
        )
    return recipes
