"""One step's gradients: the losses that a balancer asks for, and what else it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polytask.balancing import Balancer
from polytask.data.batch import Batch
from polytask.model import MultiTaskModel, Objectives
from polytask.training.batch_parts import every_row, share_of
from polytask.training.large_step import LargeStep
from polytask.training.processes import Processes
from polytask.training.step_losses import StepLosses, add_penalties


class StepResult(NamedTuple):
    """What a step was about.

    Attributes:
        losses: The tasks' losses before any weight.
        penalties: What the sharing scheme adds to the objective, by name, on the rows of this process.
        rows: How many rows are labelled for each of these tasks.
        totals: What these rows count together in the mean loss, for tasks whose rows count differently
            (`sample_weight`); no entry for the others.
    """

    losses: dict[str, Tensor]
    penalties: dict[str, Tensor]
    rows: dict[str, int]
    totals: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class BalancedStep:
    """How the gradients of a step are made.

    The step of several batches, or of several processes that have their batches each, is that of one batch of all their
    rows: means are over all of these, and balancers see losses and gradients of the whole. What couples the rows of a
    batch, such as batch normalisation, works on each batch.

    Attributes:
        model: Gives the tasks' losses on a batch, none for tasks without a label in it, and what else is added to the
            objective.
        balancer: Turns losses into gradients.
        weights: What multiplies the losses before the balancer sees them, by task.
        processes: Those that train together; None: this one alone.
    """

    model: MultiTaskModel
    balancer: Balancer
    weights: Mapping[str, float]
    processes: Processes | None = None

    def backward(self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any) -> StepResult:
        """Accumulate the gradients of a step.

        Args:
            batches: The batches of the step: their rows belong to the same means.
            shared: The shared parameters.
            scaler: The gradient scaler of training in float16, if there is one.

        Returns:
            The losses of the step, in all processes; without losses where nothing was done, because no task has a label
            wherever it needs one.
        """
        if self.processes is None and len(batches) == 1:
            return self._of_one(batches[0], shared, scaler)
        extent = self._losses.extent(batches)
        if not extent.totals:
            return StepResult({}, {}, {})
        found = LargeStep(self._losses, self.balancer).backward(batches, shared, scaler, extent)
        rows = {task: extent.rows[task] for task in found.losses}
        totals = {task: extent.totals[task] for task in found.losses if task in self._weighing_rows}
        return StepResult(found.losses, found.penalties, rows, totals)

    def _of_one(self, batch: Batch, shared: Sequence[nn.Parameter], scaler: Any) -> StepResult:
        """One batch, in one process."""
        if self.balancer.batches > 1:
            found = self._independent(batch, shared, scaler)
        else:
            found = self._losses.compute(batch)
            if found.losses:
                fraction = self.balancer.batch_fraction
                part = share_of(batch, fraction) if fraction < 1 else None
                probe = None if part is None else self._losses.weighted(self._losses.compute(part).losses)
                samples = _samples(self.balancer, batch, found.losses)
                add_penalties(found.penalties, scaler)
                weighted = self._losses.weighted(found.losses)
                self.balancer.backward(weighted, shared, scaler=scaler, samples=samples, probe=probe)
        rows = {task: batch.count(task) for task in found.losses}
        others = [task for task in batch.labelled if task not in self._weighing_rows or task not in found.losses]
        totals = self.model.totals(batch.without(others)) if self._weighing_rows else {}
        return StepResult(found.losses, found.penalties, rows, totals)

    def _independent(self, batch: Batch, shared: Sequence[nn.Parameter], scaler: Any) -> Objectives:
        """The batch is divided into independent ones; tasks that are not in each of them are left out."""
        count = self.balancer.batches
        parts = [part for start in range(count) for part in every_row([batch], count, start)]
        found = [self._losses.compute(part) for part in parts]
        everywhere = [task for task in found[0].losses if all(task in each.losses for each in found)]
        if len(parts) < count or not everywhere:
            return Objectives({}, {})
        add_penalties(found[-1].penalties, scaler)
        chosen = [self._losses.weighted({task: each.losses[task] for task in everywhere}) for each in found]
        self.balancer.backward(chosen, shared, scaler=scaler)  # type: ignore[arg-type]
        return found[-1]._replace(losses={task: found[-1].losses[task] for task in everywhere})

    def look_ahead(
        self, batches: Sequence[Batch], held_out: Batch, parameters: Sequence[nn.Parameter], lr: float, scaler: Any
    ) -> None:
        """Before a step, let a balancer that asks for it try what the step does to the losses of other rows.

        Args:
            batches: The batches of the step.
            held_out: The other rows.
            parameters: All of the model's.
            lr: The learning rate of the step.
            scaler: As in `backward`.
        """
        training, validation = partial(self._losses.of, batches), partial(self._losses.of, [held_out])
        self.balancer.before_step(training, validation, parameters, lr, scaler=scaler)

    def look_back(self, batches: Sequence[Batch]) -> None:
        """After the optimiser's step, tell a balancer that asks for it the new losses of the same batches."""
        if self.balancer.looks_back and (batches or self.processes is not None):
            with torch.no_grad():
                losses = self._losses.of(batches)
            if losses:
                self.balancer.after_step(losses)

    @cached_property
    def _weighing_rows(self) -> frozenset[str]:
        return frozenset(name for name, task in self.model.tasks.items() if task.sample_weight is not None)

    @cached_property
    def _losses(self) -> StepLosses:
        # One backward pass from all losses is what `together` is made for.
        return StepLosses(self.model, self.weights, self.balancer.level == "loss", self.processes)


def _samples(balancer: Balancer, batch: Batch, losses: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Which rows each loss depends on, where that can spare passes: where some task lacks labels.

    Not where a task reads its own versions of the rows: they are no samples of the batch, and a contrastive loss
    couples them.
    """
    apart = any(task in batch.views for task in losses)
    if apart or balancer.level != "gramian" or all(batch.labelled[task] is None for task in losses):
        return None
    everything = torch.arange(len(batch))
    return {task: everything if (rows := batch.labelled[task]) is None else rows for task in losses}
