"""The end of an epoch: its numbers are put together, and all those are told that go by them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from polytask.balancing import Balancer
from polytask.model import MultiTaskModel
from polytask.optimization.running import RunningSchedule
from polytask.training.epoch_results import EpochResults
from polytask.training.epochs import Epochs
from polytask.training.gradient_cosines import gradient_cosines
from polytask.training.learned_numbers import numbers_of
from polytask.training.own_training import OwnTraining
from polytask.training.plan import Plan
from polytask.training.processes import Processes
from polytask.training.step_log import StepLog
from polytask.training.steps import moved
from polytask.training.task_account import TaskAccount
from polytask.training.validation import Validation


class EndedEpoch(NamedTuple):
    """What has become of an epoch.

    Attributes:
        record: Its numbers by name.
        improved: Whether it is the best so far.
        stop: Whether there is nothing left to train for.
    """

    record: dict[str, float]
    improved: bool
    stop: bool


@dataclass(frozen=True)
class EpochEnd:
    """Asks the parts of a training what an epoch came to, and tells them.

    Attributes:
        model: The network.
        step_log: Has the means of losses and weights.
        account: Has what was spent on each task.
        validation: Has the scores.
        epochs: Keeps the numbers, and chooses.
        own: What single tasks do by themselves.
        balancer: Is told the scores.
        plan: Is told what the schedule of tasks goes by; None: every batch is for all tasks.
    """

    model: MultiTaskModel
    step_log: StepLog
    account: TaskAccount
    validation: Validation
    epochs: Epochs
    own: OwnTraining
    balancer: Balancer
    plan: Plan | None

    def run(
        self,
        epoch: int,
        step: int,
        schedule: RunningSchedule,
        *,
        shared: Sequence[nn.Parameter],
        device: torch.device,
        processes: Processes | None,
    ) -> EndedEpoch:
        """End an epoch.

        Args:
            epoch: Its number, counted from 0.
            step: Steps since the training began.
            schedule: The learning-rate schedule; it is told the value that the best epoch is chosen by.
            shared: The shared parameters that learn.
            device: Where the model is.
            processes: Those that train together; None: this one alone.

        Raises:
            NonFiniteLoss: A loss was NaN or infinite.
        """
        self.step_log.flush()
        results = self._results()
        record = self._record(epoch, step, schedule, results)
        learned = numbers_of(self.model.learned(), epoch + 1)
        choice = self.epochs.add(epoch, record, results, learned, hold=self._waits_for_tasks(results.started))
        if choice.anew:
            schedule.restart()
        schedule.epoch_end(choice.value, higher_is_better=self.epochs.best.higher_is_better)
        scored = {task: scores for task, scores in results.scores.items() if task in results.started}
        self.own.epoch_end(scored, list(results.losses), epoch, schedule)
        self.balancer.epoch_end(results.for_balancer())
        if self.plan is not None:
            self.plan.stopped = self.own.left
            report = results.for_schedule(self._cosines(self.plan, shared, device))
            # Processes that took other turns for a rounding would wait for each other for ever.
            self.plan.epoch_end(report if processes is None else processes.first(report))
        return EndedEpoch(record, choice.improved, choice.stop or self.own.all_stopped)

    def _results(self) -> EpochResults:
        tasks, means = dict(self.model.tasks.items()), self.step_log.epoch_means()
        return EpochResults(
            tasks=tasks,
            started=self.account.started,
            losses={task: loss for task in tasks if (loss := means.get(f"{task}/train/loss")) is not None},
            scores=self.validation.take(),
            baseline=self.validation.baseline,
        )

    def _record(self, epoch: int, step: int, schedule: RunningSchedule, results: EpochResults) -> dict[str, float]:
        shares = {} if self.plan is None else self.plan.shares()
        return {
            "epoch": epoch + 1,
            "step": step,
            "lr": schedule.lr,
            **self.step_log.epoch_means(),
            **self.account.epoch(),
            **{f"{task}/train/share": share for task, share in shares.items()},
            **results.record(),
            **self.own.rates(schedule),
        }

    def _waits_for_tasks(self, started: Collection[str]) -> bool:
        """Whether tasks are still to start that early stopping must not leave untrained: all but auxiliary ones."""
        late = {name for name, task in self.model.tasks.items() if name not in started and not task.auxiliary}
        return bool(late) and self.plan is not None and not late.isdisjoint(self.plan.coming())

    def _cosines(self, plan: Plan, shared: Sequence[nn.Parameter], device: torch.device) -> np.ndarray | None:
        if not plan.schedule.probes:
            return None
        return gradient_cosines(self.model, (moved(batch, device) for batch in plan.probes()), shared)
