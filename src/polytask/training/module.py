"""The training loop's steps, on Lightning with manual optimisation."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import nn

from polytask.balancing import Balancer, Score
from polytask.data.batch import Batch
from polytask.model import MultiTaskModel
from polytask.optimization import LRSchedule, Optimizer, TurnStates
from polytask.schedules import EpochReport
from polytask.sharing import LearnedTable
from polytask.tasks import Task
from polytask.tasks.metrics import direction
from polytask.training.balanced_step import BalancedStep, StepResult
from polytask.training.gradient_cosines import gradient_cosines
from polytask.training.held_out import HeldOutRows
from polytask.training.meta_step import MetaStep
from polytask.training.mixed_batches import MixedBatches
from polytask.training.own_training import OwnTraining, TaskRecipe
from polytask.training.plan import Plan, StepBatches
from polytask.training.processes import Processes
from polytask.training.random_state import random_state, restore_random_state
from polytask.training.scoring import Scorer, baseline_outputs
from polytask.training.selection import Best, criterion_value, gain, mean_gain, stage_of
from polytask.training.semi_supervised import SemiSupervised, UnlabelledStep
from polytask.training.step_log import StepLog
from polytask.training.task_account import TaskAccount
from polytask.training.transfer import Transfer


class EpochSink(Protocol):
    """Is told of each epoch's numbers when they are complete."""

    def epoch_done(self, record: Mapping[str, float], improved: bool) -> None:
        """Take in the record of one epoch; `improved` says whether it is the best so far."""


class LearnedNumber(NamedTuple):
    """One number that the sharing scheme had learned by the end of an epoch; see `LearnedTable`."""

    epoch: int
    table: str
    row: str
    column: str
    value: float


class MultiTaskModule(LightningModule):
    """Trains a `MultiTaskModel`: losses to the balancer, gradients to the optimiser, scores to the selection.

    Args:
        model: The network.
        balancer: Turns the tasks' losses into gradients; prepared for the model's tasks.
        optimizer: Builds the optimiser.
        lr_schedule: Builds the learning-rate schedule.
        transfer: Which stages learn when.
        best: The criterion of selection.
        stopping: The criterion of early stopping; None: train for all epochs.
        plan: Whose turn it is in each step; None: every batch is for all tasks.
        steps_per_epoch: Optimiser steps in one epoch.
        epochs: Number of epochs.
        gradient_clip: Greatest norm of the gradient of all parameters together; None: as it is.
        log_every: Steps between two looks at the losses; the device is waited for at these only.
        seed: Everything random in an epoch follows from this and the epoch's number.
        recipes: How single tasks are trained, where they differ from the others.
        optimizer_states: `per_task`: what the optimiser remembers of shared parameters is kept apart for each turn.
        held_out: Gives batches of other rows to a balancer that looks ahead; None: it does not.
        mixed: Mixes the rows of a step's batches for the tasks that want it; None: none does.
        semi_supervised: Learns from rows that lack labels, where the plan has some; None: nothing does.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        balancer: Balancer,
        *,
        optimizer: Optimizer,
        lr_schedule: LRSchedule,
        transfer: Transfer,
        best: Best,
        stopping: Best | None,
        steps_per_epoch: int,
        epochs: int,
        plan: Plan | None = None,
        gradient_clip: float | None = None,
        log_every: int = 20,
        seed: int = 0,
        recipes: Mapping[str, TaskRecipe] | None = None,
        optimizer_states: Literal["shared", "per_task"] = "shared",
        held_out: HeldOutRows | None = None,
        mixed: MixedBatches | None = None,
        semi_supervised: SemiSupervised | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.balancer = balancer
        self.best = best
        self.stopping = stopping
        self.history: list[dict[str, float]] = []
        self.learned: list[LearnedNumber] = []
        self.baseline: dict[str, dict[str, float]] = {}
        self.steps = 0
        self.step_log = StepLog(model.task_names, log_every)
        self.account = TaskAccount(model.task_names)
        self.sinks: list[EpochSink] = []
        weights = {name: task.weight for name, task in model.tasks.items()}
        self.plan = plan
        plain = BalancedStep(model, balancer, weights)
        inner = None if plan is None else plan.schedule.inner
        self._balanced = plain if inner is None else MetaStep(plain, inner)
        self._optimizer = optimizer
        self._lr_schedule = lr_schedule
        self._transfer = transfer
        self.total_steps = max(1, epochs * steps_per_epoch if plan is None else plan.expected_steps(epochs))
        self._steps_per_epoch = max(1, steps_per_epoch)
        self._gradient_clip = gradient_clip
        self._seed = seed
        self._held_out = held_out
        self._mixed = mixed
        self._semi_supervised = semi_supervised
        self.own = OwnTraining(model, recipes or {})
        self._optimizer_states = optimizer_states
        self._turn_states: TurnStates | None = None
        self._trained: list[nn.Parameter] = []
        self._shared: list[nn.Parameter] = []
        self.processes: Processes | None = None
        self._scorer: Scorer | None = None
        self._baseline_scorer: Scorer | None = None
        self._scores: dict[str, dict[str, float]] = {}

    # -- set-up ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Meet the other processes, where there are any."""
        self.processes = Processes.join()
        if self.processes is not None:
            assert isinstance(self._balanced, BalancedStep)
            self._balanced = replace(self._balanced, processes=self.processes)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser over the model's and the balancer's parameters; the schedule is this module's own."""
        groups = self._transfer.parameter_groups(self.model)
        own = list(self.balancer.parameters())
        if own:
            groups.append({"params": own, "lr_scale": 1.0, "weight_decay": 0.0})
        optimizer = self._optimizer.build(groups)
        self.schedule = self._lr_schedule.build(optimizer, self.total_steps, self._steps_per_epoch)
        return optimizer

    # -- training -------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Fix the random numbers of this epoch, and what learns in it."""
        rank = 0 if self.processes is None else self.processes.rank
        # Processes draw other dropout masks; where a balancer draws, it does so from random numbers of its own.
        torch.manual_seed(self._seed * 1_000_003 + self.current_epoch + (rank << 48))
        self.account.start_epoch()
        self._begin_epoch()
        self.step_log.start_epoch()

    def _begin_epoch(self) -> None:
        self._transfer.apply(self.model, self.current_epoch)
        self.own.begin_epoch()
        self._trained = list(self.model.parameters())
        self._shared = [parameter for parameter in self.model.shared_parameters() if parameter.requires_grad]
        self.account.start_clock()

    def training_step(self, step: StepBatches, batch_index: int) -> None:
        """One step: the gradients of its batches and views, the optimiser, and what comes after it."""
        batches = self.own.batches(step.batches)
        if self._mixed is not None:
            batches = self._mixed.of(batches, self.steps)
        progress = min(1.0, self.steps / self.total_steps)
        self.model.trunk.set_progress(progress)
        if self._held_out is not None:
            (rows,) = self.own.batches([_moved(self._held_out.batch(self.steps), self.device)])
            self._balanced.look_ahead(batches, rows, self._trained, self.schedule.lr, self._scaler)
        found = self._balanced.backward(batches, self._shared, self._scaler)
        unlabelled: Mapping[str, UnlabelledStep] = {}
        if self._semi_supervised is not None and step.views is not None:
            views = step.views.without(self.own.left)
            unlabelled = self._semi_supervised.backward(views, progress, self._scaler, self.processes)
        if found.losses or unlabelled:
            self._note(found, unlabelled)
        self._step(step.turn)
        self._balanced.look_back(batches)
        self.account.step_done(found.rows)

    def on_train_batch_end(self, outputs: Any, batch: StepBatches, batch_idx: int) -> None:
        """What callbacks did after the step, such as writing a checkpoint, is no part of the next one."""
        self.account.start_clock()

    def _note(self, found: StepResult, unlabelled: Mapping[str, UnlabelledStep]) -> None:
        losses, step = found.losses, self.balancer.last
        weights = None if step is None or step.tasks != tuple(losses) else step.weight_values
        rows = [found.rows[name] for name in losses]
        with torch.no_grad():
            values = torch.stack(list(losses.values())) if losses else torch.empty(0, device=self.device)
        self.step_log.add(
            tuple(losses), values, weights, rows, found.penalties, totals=found.totals, unlabelled=unlabelled
        )

    @property
    def _scaler(self) -> Any:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _step(self, turn: tuple[str, ...]) -> None:
        optimizer = self.optimizers()
        if self._turn_states is not None:
            self._turn_states.enter(turn)
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.schedule.step()
        self.steps += 1
        if self.plan is not None:
            self.plan.done += 1

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip; in float16 Lightning has just unscaled the gradients."""
        self.own.clip()
        if self._gradient_clip is not None:
            nn.utils.clip_grad_norm_(self._trained, self._gradient_clip)

    # -- validation -----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin to collect scores; the baseline's too, the first time."""
        tasks = list(self.model.tasks.values())
        if self._scorer is None:
            self._scorer = Scorer(tasks, self.processes)
        self._baseline_scorer = None if self.baseline else Scorer(tasks, self.processes)
        self._align()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Score one batch."""
        assert self._scorer is not None
        present = [task for task in self.model.task_names if batch.has(task)]
        self._scorer.update(self.model(batch.inputs, present, batch.labelled), batch)
        if self._baseline_scorer is not None:
            tasks = list(self.model.tasks.values())
            self._baseline_scorer.update(baseline_outputs(tasks, batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Turn what was collected into scores."""
        assert self._scorer is not None
        self._scores = self._scorer.compute()
        self._scorer.reset()
        if self._baseline_scorer is not None:
            self.baseline = self._baseline_scorer.compute()
        self._baseline_scorer = None

    def _align(self) -> None:
        """Let all processes have the parameters and statistics of the first one: those of its batches alone."""
        if self.processes is not None:
            self.processes.align(self.model)
            self.processes.align(self.balancer)

    # -- the end of an epoch --------------------------------------------------------------------------------------

    def on_train_epoch_end(self) -> None:
        """Write down the epoch's numbers, choose, and decide whether to go on."""
        self.step_log.flush()
        tasks = dict(self.model.tasks.items())
        started = {name: tasks[name] for name in self.account.started}
        epoch = self.current_epoch
        record: dict[str, float] = {"epoch": epoch + 1, "step": self.steps, "lr": self.schedule.lr}
        record.update(self.step_log.epoch_means())
        record.update(self.account.epoch())
        if self.plan is not None:
            record.update({f"{task}/train/share": share for task, share in self.plan.shares().items()})
        for task, scores in self._scores.items():
            record.update({f"{task}/valid/{metric}": value for metric, value in scores.items()})
        if self._scores:
            record["valid/mean_gain"] = mean_gain(started, self._scores, self.baseline)
        value = criterion_value(self.best.criterion, started, self._scores, self.baseline)
        stage = stage_of(self.best.criterion, tasks, started)
        if self.history and stage > self.best.stage:
            self.schedule.restart()
        improved = self.best.update(value, epoch, stage=stage)
        if math.isnan(self.best.value):  # there is nothing to choose by, so the last epoch stands
            self.best.epoch, improved = epoch, True
        record.update(self.own.rates(self.schedule))
        self.schedule.epoch_end(value, higher_is_better=self.best.higher_is_better)
        self.history.append(record)
        self.learned += _numbers(epoch + 1, self.model.learned())
        if self.stopping is not None and self._scores:
            watched = criterion_value(self.stopping.criterion, started, self._scores, self.baseline)
            stage = stage_of(self.stopping.criterion, tasks, started)
            self.stopping.update(watched, epoch, stage=stage, hold=self._waits_for_tasks(started))
            if self.stopping.exhausted:
                self.trainer.should_stop = True
        trained = [task for task in tasks if f"{task}/train/loss" in record]
        scored = {task: found for task, found in self._scores.items() if task in started}
        self.own.epoch_end(scored, trained, epoch, self.schedule)
        if self.own.all_stopped:
            self.trainer.should_stop = True
        self.balancer.epoch_end(self._scores_for_balancer(tasks))
        if self.plan is not None:
            self.plan.stopped = self.own.left
            self.plan.epoch_end(self._report(record, tasks))
        self._scores = {}
        for sink in self.sinks:
            sink.epoch_done(record, improved)

    def _waits_for_tasks(self, started: Collection[str]) -> bool:
        """Whether tasks are still to start that early stopping must not leave untrained: all but auxiliary ones."""
        late = {name for name, task in self.model.tasks.items() if name not in started and not task.auxiliary}
        return bool(late) and self.plan is not None and not late.isdisjoint(self.plan.coming())

    def _report(self, record: Mapping[str, float], tasks: Mapping[str, Task]) -> EpochReport:
        losses = {task: loss for task in tasks if (loss := record.get(f"{task}/train/loss")) is not None}
        gains = {task: gain(each, self._scores, self.baseline) for task, each in tasks.items()} if self._scores else {}
        metrics = {metric for scores in self._scores.values() for metric in scores}
        higher_is_better = {metric: direction(metric) == "max" for metric in metrics}
        report = EpochReport(losses, self._scores, gains, higher_is_better, self._cosines())
        # Processes that took other turns for a rounding would wait for each other for ever.
        return report if self.processes is None else self.processes.first(report)

    def _cosines(self) -> np.ndarray | None:
        if self.plan is None or not self.plan.schedule.probes:
            return None
        batches = (_moved(batch, self.device) for batch in self.plan.probes())
        return gradient_cosines(self.model, batches, self._shared)

    def _scores_for_balancer(self, tasks: Mapping[str, Task]) -> dict[str, Score] | None:
        """The tasks' main metrics; None where there was no validation."""
        if not self._scores:
            return None
        return {
            name: Score(
                self._scores[name][task.metric],
                direction(task.metric) == "max",
                gain(task, self._scores, self.baseline),
            )
            for name, task in tasks.items()
            if task.metric in self._scores.get(name, {})
        }

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what this module decides by to Lightning's checkpoint."""
        checkpoint["polytask"] = {
            "steps": self.steps,
            "step_log": self.step_log.state_dict(),
            "account": self.account.state_dict(),
            "history": self.history,
            "learned": [tuple(number) for number in self.learned],
            "baseline": self.baseline,
            "best": self.best.state_dict(),
            "stopping": self.stopping.state_dict() if self.stopping is not None else None,
            "own": self.own.state_dict(),
            "turn_states": None if self._turn_states is None else self._turn_states.state_dict(),
            "schedule": self.schedule.state_dict(),
            "plan": None if self.plan is None else self.plan.state_dict(),
            "random": self._random_states(),
        }

    def _random_states(self) -> list[dict[str, Any]]:
        """Of each process."""
        own = random_state(self.device)
        return [own] if self.processes is None else self.processes.each(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self._loaded = checkpoint["polytask"]
        self.steps = self._loaded["steps"]
        self.step_log.load_state_dict(self._loaded["step_log"])
        self.account.load_state_dict(self._loaded["account"])
        self.history = self._loaded["history"]
        self.learned = [LearnedNumber(*number) for number in self._loaded["learned"]]
        self.baseline = self._loaded["baseline"]
        self.best.load_state_dict(self._loaded["best"])
        self.own.load_state_dict(self._loaded["own"])
        if self.stopping is not None and self._loaded["stopping"] is not None:
            self.stopping.load_state_dict(self._loaded["stopping"])

        if self.plan is not None and self._loaded["plan"] is not None:
            self.plan.load_state_dict(self._loaded["plan"])

    def on_train_start(self) -> None:
        """Put the schedule and the random numbers where the checkpoint left them: here they are not moved any more."""
        self._align()
        loaded = self.__dict__.pop("_loaded", None)
        if self._optimizer_states == "per_task":
            wrapped: Any = self.optimizers()
            self._turn_states = TurnStates(wrapped.optimizer, self.model.shared_parameters())
            if loaded is not None:
                self._turn_states.load_state_dict(loaded["turn_states"])
        if loaded is not None:
            self.schedule.load_state_dict(loaded["schedule"])
            restore_random_state(loaded["random"][self.global_rank], self.device)
        if self.plan is not None and self.plan.done:
            # Lightning goes on in the middle of an epoch without saying that one starts.
            self._begin_epoch()

    def on_train_end(self) -> None:
        """Say what became of the schedule."""
        if self.plan is not None:
            self.plan.finish()

    def transfer_batch_to_device(
        self, batch: Batch | StepBatches, device: torch.device, dataloader_idx: int
    ) -> Batch | StepBatches:
        """Move a batch, or what a step is made of (Lightning knows no dataclass of ours)."""
        if isinstance(batch, StepBatches):
            views = None if batch.views is None else batch.views.to(device, non_blocking=True)
            return batch._replace(batches=[_moved(each, device) for each in batch.batches], views=views)
        return _moved(batch, device)


def _moved(batch: Batch, device: torch.device) -> Batch:
    return batch if batch.rows.device == device else batch.to(device, non_blocking=True)


def _numbers(epoch: int, tables: Mapping[str, LearnedTable]) -> list[LearnedNumber]:
    return [
        LearnedNumber(epoch, name, row, column, value)
        for name, table in tables.items()
        for row, values in zip(table.rows, table.values.tolist(), strict=True)
        for column, value in zip(table.columns, values, strict=True)
    ]
