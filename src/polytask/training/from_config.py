"""The objects that a training is made of, from what a configuration says of them."""

from __future__ import annotations

from collections.abc import Sequence

from polytask.config import Config
from polytask.data.encoded_rows import EncodedRows
from polytask.errors import at_key
from polytask.model import MultiTaskModel
from polytask.schedules import Freeze, Schedule, Turn
from polytask.tasks.unlabelled import Unlabelled
from polytask.training.auxiliary import make_balancer, warn_of_auxiliary_criteria
from polytask.training.held_out import held_out_rows
from polytask.training.mixed_batches import MixedBatches, mixings_of
from polytask.training.module import MultiTaskModule
from polytask.training.own_training import Rates, Slowing, Stopping, TaskRecipe
from polytask.training.plan import Plan
from polytask.training.selection import Best
from polytask.training.semi_supervised import SemiSupervised
from polytask.training.task_streams import Sampling
from polytask.training.transfer import Transfer


def make_plan(config: Config, schedule: Schedule, tasks: Turn, rows: EncodedRows) -> Plan:
    """Whose turn it is in each step, and which rows it draws.

    Args:
        config: What is asked for.
        schedule: Its schedule.
        tasks: The tasks, in the model's order.
        rows: The training rows.
    """
    settings = config.training
    uses = uses_of_unlabelled(config)
    with at_key("schedule"):
        return Plan(
            schedule,
            rows,
            tasks,
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
            unlabelled=tuple(name for name in tasks if name in uses),
            unlabelled_batch_size=settings.unlabelled_batch_size,
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
        encoders={name: Rates(own.lr_scale, own.weight_decay) for name, own in config.training.encoders.items()},
    )


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


def uses_of_unlabelled(config: Config) -> dict[str, Unlabelled]:
    """How single tasks learn from rows without their labels, from `training.tasks`."""
    own = {name: each.unlabelled for name, each in config.training.tasks.items()}
    return {name: use.create() for name, use in own.items() if use is not None}
