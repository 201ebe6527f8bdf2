"""All that a training needs, made from a configuration and checked, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, cast

import torch

from polytask.config import Config
from polytask.config.checks import steering_columns
from polytask.data.loader import Loader
from polytask.data.overlap import LabelCounts, count_labels
from polytask.data.preparation import Preparation
from polytask.data.request import Share
from polytask.data.splits import Split
from polytask.data.summary import TargetRecord, describe
from polytask.errors import at_key
from polytask.model import MultiTaskModel
from polytask.partial import PartialInput, chosen_rows
from polytask.schedules import Schedule
from polytask.training.adapt import TrunkStart
from polytask.training.costs import Costs, count_costs
from polytask.training.from_config import make_module, make_plan, uses_of_unlabelled
from polytask.training.init_from import Start
from polytask.training.job_checks import (
    check_balancer,
    check_device,
    check_meta_learning,
    check_views,
    require_no_scores,
)
from polytask.training.mixed_batches import check_mixings
from polytask.training.module import MultiTaskModule
from polytask.training.plan import Plan
from polytask.training.saved_model import ModelDescription
from polytask.training.sources import Sources, open_sources
from polytask.training.steps import Steps


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
        """What a prediction for one row costs, beside a network for each task with the same encoder.

        The row has all inputs, but a task by itself is asked of one with the inputs that its labelled rows have.
        """
        alone = replace(self.description, sharing={"type": "hard", "parameters": {}}, relations=[])
        single, _ = alone.build(self.preparation.shapes)
        encoded, part = self.train.loader.encoded, self.sources.parts["train"]
        there = self.preparation.rows_with_inputs(part.table, encoded.rows)
        reads = {}
        for task in self.model.task_names:
            labelled = encoded.labelled(task)
            own = self.preparation.targets[task].views_of
            reads[task] = [own] if own else [name for name, has in there.items() if (has & labelled).any()]
        return count_costs(self.model, single, _inputs_of_one_row(self.train.loader), reads)

    def count_parameters(self) -> dict[str, int]:
        """How many parameters there are, and how many of them more than one task's loss reaches."""
        shared = self.model.shared_parameters()
        return {
            "all": sum(parameter.numel() for parameter in self.model.parameters()),
            "shared": sum(parameter.numel() for parameter in shared),
        }


def _inputs_of_one_row(loader: Loader) -> Mapping[str, Any]:
    """What the encoders read of a row; where no row has all inputs, each as some row has it."""
    found: dict[str, Any] = {}
    names: set[str] = set()
    for batch in loader:
        for name, value in batch.inputs.items():
            names.add(name)
            rows = value.rows if isinstance(value, PartialInput) else torch.arange(len(batch))
            if name not in found and len(rows):
                whole = value.values if isinstance(value, PartialInput) else value
                found[name] = chosen_rows(whole, torch.tensor([0]))
        if len(found) == len(names):
            break
    return found


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
    check_device(settings)
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
        if config.model.fusion is not None and config.model.fusion.parameters.get("drop"):
            preparation.optional = frozenset(preparation.inputs)
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
        check_meta_learning(schedule, settings, share)
    plan_for = partial(make_plan, config, schedule, model.task_names)
    train = load(part.table, part.rows, training=True, order=plan_for)
    valid = sources.parts.get("valid")
    if valid is None:
        require_no_scores(config, schedule)
    check_views(model, uses_of_unlabelled(config), train.encoded)
    steps = Steps(train, cast("Plan", train.order))
    valid_loader = None if valid is None else load(valid.table, valid.rows)
    rows = [loader.encoded for loader in (valid_loader, train) if loader is not None]
    module = make_module(config, model, steps.plan, rows)
    check_balancer(config, module.balancer, share)
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
