"""The training loop's steps, on Lightning with manual optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import nn

from polytask.balancing import Balancer
from polytask.data.batch import Batch
from polytask.model import MultiTaskModel
from polytask.optimization import LRSchedule, Optimizer, TurnStates
from polytask.training.balanced_step import BalancedStep, StepResult
from polytask.training.checkpoint_parts import CheckpointParts
from polytask.training.epoch_end import EpochEnd
from polytask.training.epochs import Epochs, EpochSink
from polytask.training.held_out import HeldOutRows
from polytask.training.meta_step import MetaStep
from polytask.training.mixed_batches import MixedBatches
from polytask.training.own_training import OwnTraining, TaskRecipe
from polytask.training.plan import Plan
from polytask.training.processes import Processes
from polytask.training.random_state import RandomNumbers
from polytask.training.selection import Best
from polytask.training.semi_supervised import SemiSupervised, UnlabelledStep
from polytask.training.step_log import StepLog
from polytask.training.steps import StepBatches, moved
from polytask.training.task_account import TaskAccount
from polytask.training.transfer import Transfer
from polytask.training.validation import Validation


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
        self.steps = 0
        self.epochs = Epochs(best, stopping)
        self.validation = Validation(model)
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
        self._epoch_end = EpochEnd(
            model, self.step_log, self.account, self.validation, self.epochs, self.own, balancer, plan
        )
        self._checkpoint_parts = CheckpointParts(
            step_log=self.step_log,
            account=self.account,
            epochs=self.epochs,
            validation=self.validation,
            own=self.own,
            **({} if plan is None else {"plan": plan}),
        )

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
            (rows,) = self.own.batches([moved(self._held_out.batch(self.steps), self.device)])
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
        """Begin to collect scores."""
        self.validation.begin(self.processes)
        self._align()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Score one batch."""
        self.validation.add(batch)

    def on_validation_epoch_end(self) -> None:
        """Turn what was collected into scores."""
        self.validation.end()

    def _align(self) -> None:
        """Let all processes have the parameters and statistics of the first one: those of its batches alone."""
        if self.processes is not None:
            self.processes.align(self.model)
            self.processes.align(self.balancer)

    # -- the end of an epoch --------------------------------------------------------------------------------------

    def on_train_epoch_end(self) -> None:
        """Write down the epoch's numbers, and decide whether to go on."""
        ended = self._epoch_end.run(
            self.current_epoch,
            self.steps,
            self.schedule,
            shared=self._shared,
            device=self.device,
            processes=self.processes,
        )
        if ended.stop:
            self.trainer.should_stop = True
        for sink in self.sinks:
            sink.epoch_done(ended.record, ended.improved)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what this module decides by to Lightning's checkpoint."""
        checkpoint["polytask"] = {"steps": self.steps, **self._checkpoint_parts.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        state = dict(checkpoint["polytask"])
        self.steps = state.pop("steps")
        self._checkpoint_parts.load_state_dict(state)

    def on_train_start(self) -> None:
        """Put the schedule and the random numbers where the checkpoint left them: here they are not moved any more."""
        self._align()
        if self._optimizer_states == "per_task":
            wrapped: Any = self.optimizers()
            self._turn_states = TurnStates(wrapped.optimizer, self.model.shared_parameters())
            self._checkpoint_parts.add("turn_states", self._turn_states)
        self._checkpoint_parts.add("schedule", self.schedule)
        self._checkpoint_parts.add("random", RandomNumbers(self.device, self.processes))
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
        return batch.to(device) if isinstance(batch, StepBatches) else moved(batch, device)
