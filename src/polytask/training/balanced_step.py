"""One step's gradients: the losses that a balancer asks for, and what else it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polytask.balancing import Balancer, Step
from polytask.balancing.accumulation import GradientSum
from polytask.balancing.processes import sum_gradients
from polytask.balancing.stand_ins import stand_in
from polytask.data.batch import Batch
from polytask.model import MultiTaskModel, Objectives
from polytask.training.extent import Extent, extent_of
from polytask.training.processes import Processes


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
        extent = extent_of(self.model, batches, self.processes)
        if not extent.totals:
            return StepResult({}, {}, {})
        if self.processes is not None and self.balancer.level == "loss" and extent.most == 1:
            found = self._at_once(batches, shared, scaler, extent)
        elif self.balancer.additive:
            found = self._added_up(batches, shared, scaler, extent)
        else:
            found = self._accumulated(batches, shared, scaler, extent)
        rows = {task: extent.rows[task] for task in found.losses}
        totals = {task: extent.totals[task] for task in found.losses if task in self._weighing_rows}
        return StepResult(found.losses, found.penalties, rows, totals)

    def _of_one(self, batch: Batch, shared: Sequence[nn.Parameter], scaler: Any) -> StepResult:
        """One batch, in one process."""
        if self.balancer.batches > 1:
            found = self._independent(batch, shared, scaler)
        else:
            found = self.compute(batch)
            if found.losses:
                fraction = self.balancer.batch_fraction
                part = batch.part(_share(batch, fraction)) if fraction < 1 else None
                probe = None if part is None else self._weighted(self.compute(part).losses)
                samples = _samples(self.balancer, batch, found.losses)
                _penalise(found, scaler)
                weighted = self._weighted(found.losses)
                self.balancer.backward(weighted, shared, scaler=scaler, samples=samples, probe=probe)
        rows = {task: batch.count(task) for task in found.losses}
        others = [task for task in batch.labelled if task not in self._weighing_rows or task not in found.losses]
        totals = self.model.totals(batch.without(others)) if self._weighing_rows else {}
        return StepResult(found.losses, found.penalties, rows, totals)

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
        training, validation = partial(self._losses, batches), partial(self._losses, [held_out])
        self.balancer.before_step(training, validation, parameters, lr, scaler=scaler)

    def look_back(self, batches: Sequence[Batch]) -> None:
        """After the optimiser's step, tell a balancer that asks for it the new losses of the same batches."""
        if self.balancer.looks_back and (batches or self.processes is not None):
            with torch.no_grad():
                losses = self._losses(batches)
            if losses:
                self.balancer.after_step(losses)

    @cached_property
    def _weighing_rows(self) -> frozenset[str]:
        return frozenset(name for name, task in self.model.tasks.items() if task.sample_weight is not None)

    @property
    def compute(self) -> Callable[..., Objectives]:
        """See `MultiTaskModel.objectives`; one backward pass from all losses is what `together` is made for."""
        return partial(self.model.objectives, together=self.balancer.level == "loss")

    def _losses(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """The weighted losses of batches whose rows belong to the same means."""
        if self.processes is None and len(batches) == 1:
            return self._weighted(self.compute(batches[0]).losses)
        totals = extent_of(self.model, batches, self.processes).totals
        losses: dict[str, Tensor] = {}
        for batch in batches:
            losses = _sums(losses, self.compute(batch, totals).losses)
        return self._weighted(self._everywhere(losses, tuple(totals)))

    def _everywhere(self, losses: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """Losses of some tasks, added up over the processes, in the tasks' order."""
        if self.processes is None or not tasks:
            return {task: losses[task] for task in tasks if task in losses}
        nothing = torch.zeros((), device=next(self.model.parameters()).device)
        values = self.processes.sum(torch.stack([losses.get(task, nothing).detach().float() for task in tasks]))
        return dict(zip(tasks, values.unbind(), strict=True))

    def _at_once(
        self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any, extent: Extent
    ) -> Objectives:
        """A step of one batch in each process, for a balancer that needs the losses alone: one pass.

        The balancer sees losses with the values of the whole step, and the gradients of this process. As it takes their
        gradients times weights that follow from the values, the sum over the processes is the gradient of the step.
        """
        found = self.compute(batches[0], extent.totals) if batches else Objectives({}, {})
        shares = {name: value / extent.batches for name, value in found.penalties.items()}
        _penalise(found._replace(penalties=shares), scaler)
        own = self._weighted(found.losses)
        values = self._everywhere(found.losses, tuple(extent.totals))
        anchor = self._trainable[0]
        seen = {
            # A task that is not in this process has a loss, too: without a gradient here, but for the others to see.
            task: own[task] + (value - own[task].detach())
            if task in own
            else stand_in(value, (anchor,), (torch.zeros_like(anchor),))
            for task, value in self._weighted(values).items()
        }
        self.balancer.backward(seen, shared, scaler=scaler)
        sum_gradients(self._trainable)
        return Objectives(values, found.penalties)

    def _accumulated(
        self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any, extent: Extent
    ) -> Objectives:
        """Task gradients are measured batch by batch, and added up, before the balancer sees them."""
        count = self.balancer.batches
        sums, parts = [], [_every(batches, count, start) for start in range(count)] if count > 1 else [batches]
        for part in parts:
            gradients = self._gradient_sum(shared)
            size = extent_of(self.model, part, self.processes) if count > 1 else extent
            add = partial(gradients.add, scaler=scaler)
            found = self._summed(part, scaler, add, size, penalise=part is parts[-1])
            gradients.reduce()
            sums.append(gradients.losses())
        # So far only penalties have left gradients, each process its own.
        sum_gradients(self._trainable)
        everywhere = [task for task in found.losses if all(task in each for each in sums)]
        if not everywhere:
            return Objectives({}, {})
        chosen = [{task: each[task] for task in everywhere} for each in sums]
        probe = None
        if self.balancer.batch_fraction < 1:
            shares = [batch.part(_share(batch, self.balancer.batch_fraction)) for batch in batches if len(batch)]
            gradients = self._gradient_sum(shared)
            size = extent_of(self.model, shares, self.processes)
            self._summed(shares, scaler, partial(gradients.add, scaler=scaler), size, penalise=False)
            gradients.reduce()
            probe = gradients.losses()
        given = chosen if count > 1 else chosen[0]
        self.balancer.backward(given, shared, scaler=scaler, probe=probe)  # type: ignore[arg-type]
        return found._replace(losses={task: found.losses[task] for task in everywhere})

    def _added_up(
        self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any, extent: Extent
    ) -> Objectives:
        """Batch after batch, for a balancer whose weights depend on none of them."""
        weights: dict[str, Tensor] = {}

        def backward(losses: dict[str, Tensor]) -> None:
            self.balancer.backward(losses, shared, scaler=scaler)
            if self.balancer.last is not None:
                weights.update(self.balancer.last.weights)

        found = self._summed(batches, scaler, backward, extent)
        sum_gradients(self._trainable)
        # What the balancer found last was about the last batch alone.
        values = torch.stack(list(self._weighted(found.losses).values()))
        known = torch.stack([weights[task] for task in found.losses]) if weights.keys() >= found.losses.keys() else None
        self.balancer.last = Step(tuple(found.losses), values, known)
        return found

    @property
    def _trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _gradient_sum(self, shared: Sequence[nn.Parameter]) -> GradientSum:
        return GradientSum(self._trainable, self.model.task_names, shared=shared)

    def _summed(
        self,
        batches: Sequence[Batch],
        scaler: Any,
        each: Callable[[dict[str, Tensor]], None],
        extent: Extent,
        *,
        penalise: bool = True,
    ) -> Objectives:
        """Compute several batches one after the other.

        Args:
            batches: Their rows belong to the same means.
            scaler: See `backward`.
            each: Takes the weighted losses of each batch that has any.
            extent: Of all these batches, in all processes.
            penalise: Whether to accumulate the penalties' gradients.

        Returns:
            The losses of all of them, in all processes, and the penalties on the batches of this one; detached.
        """
        losses: dict[str, Tensor] = {}
        penalties: dict[str, Tensor] = {}
        for batch in batches:
            found = self.compute(batch, extent.totals)
            shares = {name: value / extent.batches for name, value in found.penalties.items()}
            shown = {name: value.detach() / len(batches) for name, value in found.penalties.items()}
            penalties = _sums(penalties, shown)
            losses = _sums(losses, {task: loss.detach() for task, loss in found.losses.items()})
            if penalise:
                _penalise(found._replace(penalties=shares), scaler)
            if found.losses:
                each(self._weighted(found.losses))
        return Objectives(self._everywhere(losses, tuple(extent.totals)), penalties)

    def _independent(self, batch: Batch, shared: Sequence[nn.Parameter], scaler: Any) -> Objectives:
        """The batch is divided into independent ones; tasks that are not in each of them are left out."""
        count = self.balancer.batches
        parts = [part for start in range(count) for part in _every([batch], count, start)]
        found = [self.compute(part) for part in parts]
        everywhere = [task for task in found[0].losses if all(task in each.losses for each in found)]
        if len(parts) < count or not everywhere:
            return Objectives({}, {})
        _penalise(found[-1], scaler)
        chosen = [self._weighted({task: each.losses[task] for task in everywhere}) for each in found]
        self.balancer.backward(chosen, shared, scaler=scaler)  # type: ignore[arg-type]
        return found[-1]._replace(losses={task: found[-1].losses[task] for task in everywhere})

    def _weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # A product with 1 would be one more node to pass through.
        return {task: loss if (w := self.weights[task]) == 1 else loss * w for task, loss in losses.items()}


def _every(batches: Sequence[Batch], count: int, start: int) -> list[Batch]:
    """Of each batch, every `count`-th row from the one at `start` on."""
    return [batch.part(torch.arange(start, len(batch), count)) for batch in batches if len(batch) > start]


def _sums(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**one, **{name: one[name] + value if name in one else value for name, value in other.items()}}


def _penalise(found: Objectives, scaler: Any) -> None:
    """Accumulate the plain gradients of the penalties: balancers weigh tasks, and nothing else."""
    active = [penalty for penalty in found.penalties.values() if penalty.requires_grad]
    if active:
        total = torch.stack(active).sum()
        (total if scaler is None else scaler.scale(total)).backward(retain_graph=True)


def _samples(balancer: Balancer, batch: Batch, losses: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Which rows each loss depends on, where that can spare passes: where some task lacks labels."""
    if balancer.level != "gramian" or all(batch.labelled[task] is None for task in losses):
        return None
    everything = torch.arange(len(batch))
    return {task: everything if (rows := batch.labelled[task]) is None else rows for task in losses}


def _share(batch: Batch, fraction: float) -> Tensor:
    """The first rows, this share of them, and a labelled row of each task in the batch."""
    chosen = set(range(math.ceil(len(batch) * fraction)))
    for task, rows in batch.labelled.items():
        if rows is not None and batch.has(task):
            chosen.add(int(rows[0]))
    return torch.tensor(sorted(chosen))
