"""One step's gradients: the losses that a balancer asks for, and what else it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polytask.balancing import Balancer
from polytask.data.batch import Batch
from polytask.model import Objectives


@dataclass(frozen=True)
class BalancedStep:
    """How the gradients of a batch are made.

    Attributes:
        balancer: Turns losses into gradients.
        compute: The tasks' losses on a batch, none for tasks without a label in it, and what else is added to the
            objective.
        weights: What multiplies the losses before the balancer sees them, by task.
    """

    balancer: Balancer
    compute: Callable[[Batch], Objectives]
    weights: Mapping[str, float]

    def backward(self, batch: Batch, shared: Sequence[nn.Parameter], scaler: Any) -> Objectives:
        """Accumulate the gradients of a batch.

        Args:
            batch: The batch.
            shared: The shared parameters.
            scaler: The gradient scaler of training in float16, if there is one.

        Returns:
            What `compute` gives; without losses where nothing was done, because no task has a label wherever it needs
            one.
        """
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

    def look_back(self, batch: Batch) -> None:
        """After the optimiser's step, tell a balancer that asks for it the new losses of the same batch."""
        if self.balancer.looks_back:
            with torch.no_grad():
                losses = self.compute(batch).losses
            if losses:
                self.balancer.after_step(self._weighted(losses))

    def _independent(self, batch: Batch, shared: Sequence[nn.Parameter], scaler: Any) -> Objectives:
        """The batch is divided into independent ones; tasks that are not in each of them are left out."""
        count = self.balancer.batches
        parts = [batch.part(torch.arange(start, len(batch), count)) for start in range(min(count, len(batch)))]
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
