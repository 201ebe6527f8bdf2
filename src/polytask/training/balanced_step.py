"""One step's gradients: the losses that a balancer asks for, and what else it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polytask.balancing import Balancer, Step
from polytask.balancing.accumulation import GradientSum
from polytask.data.batch import Batch
from polytask.model import MultiTaskModel, Objectives


@dataclass(frozen=True)
class BalancedStep:
    """How the gradients of a step are made.

    Attributes:
        model: Gives the tasks' losses on a batch, none for tasks without a label in it, and what else is added to the
            objective.
        balancer: Turns losses into gradients.
        weights: What multiplies the losses before the balancer sees them, by task.
    """

    model: MultiTaskModel
    balancer: Balancer
    weights: Mapping[str, float]

    def backward(self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any) -> Objectives:
        """Accumulate the gradients of a step.

        Args:
            batches: The batches of the step: their rows belong to the same means.
            shared: The shared parameters.
            scaler: The gradient scaler of training in float16, if there is one.

        Returns:
            The losses and penalties of the step; without losses where nothing was done, because no task has a label
            wherever it needs one.
        """
        if not batches:
            return Objectives({}, {})
        if len(batches) > 1:
            return self._accumulated(batches, shared, scaler)
        (batch,) = batches
        if self.balancer.batches > 1:
            return self._independent(batch, shared, scaler)
        found = self.compute(batch)
        if found.losses:
            fraction = self.balancer.batch_fraction
            probe = self._weighted(self.compute(batch.part(_share(batch, fraction))).losses) if fraction < 1 else None
            samples = _samples(self.balancer, batch, found.losses)
            _penalise(found, scaler)
            self.balancer.backward(self._weighted(found.losses), shared, scaler=scaler, samples=samples, probe=probe)
        return found

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
        if self.balancer.looks_back and batches:
            with torch.no_grad():
                losses = self._losses(batches)
            if losses:
                self.balancer.after_step(losses)

    @property
    def compute(self) -> Callable[..., Objectives]:
        """See `MultiTaskModel.objectives`; one backward pass from all losses is what `together` is made for."""
        return partial(self.model.objectives, together=self.balancer.level == "loss")

    def _losses(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """The weighted losses of batches whose rows belong to the same means."""
        totals = self._totals(batches) if len(batches) > 1 else None
        losses: dict[str, Tensor] = {}
        for batch in batches:
            losses = _sums(losses, self.compute(batch, totals).losses)
        return self._weighted(_in_order(losses, self.model.task_names))

    def _totals(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """What the labelled rows of several batches count together, by task."""
        totals: dict[str, Tensor] = {}
        for batch in batches:
            totals = _sums(totals, self.model.totals(batch))
        return totals

    def _accumulated(self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any) -> Objectives:
        """A step of several batches: what one batch of all their rows would give, batch statistics aside."""
        if self.balancer.additive:
            return self._added_up(batches, shared, scaler)
        count = self.balancer.batches
        sums, parts = [], [_every(batches, count, start) for start in range(count)] if count > 1 else [batches]
        for part in parts:
            gradients = self._gradient_sum(shared)
            found = self._summed(part, scaler, partial(gradients.add, scaler=scaler), penalise=part is parts[-1])
            sums.append(gradients.losses())
        everywhere = [task for task in found.losses if all(task in each for each in sums)]
        if not everywhere:
            return Objectives({}, {})
        chosen = [{task: each[task] for task in everywhere} for each in sums]
        probe = None
        if self.balancer.batch_fraction < 1:
            shares = [batch.part(_share(batch, self.balancer.batch_fraction)) for batch in batches if len(batch)]
            gradients = self._gradient_sum(shared)
            self._summed(shares, scaler, partial(gradients.add, scaler=scaler), penalise=False)
            probe = gradients.losses()
        given = chosen if count > 1 else chosen[0]
        self.balancer.backward(given, shared, scaler=scaler, probe=probe)  # type: ignore[arg-type]
        return found._replace(losses={task: found.losses[task] for task in everywhere})

    def _added_up(self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any) -> Objectives:
        """Batch after batch, for a balancer whose weights depend on none of them."""
        weights: dict[str, Tensor] = {}

        def backward(losses: dict[str, Tensor]) -> None:
            self.balancer.backward(losses, shared, scaler=scaler)
            if self.balancer.last is not None:
                weights.update(self.balancer.last.weights)

        found = self._summed(batches, scaler, backward)
        if found.losses:
            # What the balancer found last was about the last batch alone.
            values = torch.stack(list(self._weighted(found.losses).values()))
            known = torch.stack([weights[task] for task in found.losses]) if weights else None
            self.balancer.last = Step(tuple(found.losses), values, known)
        return found

    def _gradient_sum(self, shared: Sequence[nn.Parameter]) -> GradientSum:
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return GradientSum(trainable, self.model.task_names, shared=shared)

    def _summed(
        self,
        batches: Sequence[Batch],
        scaler: Any,
        each: Callable[[dict[str, Tensor]], None],
        *,
        penalise: bool = True,
    ) -> Objectives:
        """Compute several batches one after the other.

        Args:
            batches: Their rows belong to the same means.
            scaler: See `backward`.
            each: Takes the weighted losses of each batch that has any.
            penalise: Whether to accumulate the penalties' gradients.

        Returns:
            The losses and penalties of all of them, detached.
        """
        totals = self._totals(batches)
        losses: dict[str, Tensor] = {}
        penalties: dict[str, Tensor] = {}
        for batch in batches:
            found = self.compute(batch, totals)
            shares = {name: value / len(batches) for name, value in found.penalties.items()}
            penalties = _sums(penalties, {name: value.detach() for name, value in shares.items()})
            losses = _sums(losses, {task: loss.detach() for task, loss in found.losses.items()})
            if penalise:
                _penalise(found._replace(penalties=shares), scaler)
            if found.losses:
                each(self._weighted(found.losses))
        return Objectives(_in_order(losses, self.model.task_names), penalties)

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


def _in_order(losses: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
    return {task: losses[task] for task in tasks if task in losses}


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
