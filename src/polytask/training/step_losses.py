"""The losses of a step's batches, whose rows belong to the same means, in this process and in the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polytask.data.batch import Batch
from polytask.model import MultiTaskModel, Objectives
from polytask.training.extent import Extent, extent_of
from polytask.training.processes import Processes


@dataclass(frozen=True)
class StepLosses:
    """Computes losses as a balancer sees them.

    Attributes:
        model: Gives the tasks' losses on a batch, none for tasks without a label in it, and what else is added to the
            objective.
        weights: What multiplies the losses before the balancer sees them, by task.
        together: Whether one backward pass follows, from all losses; see `MultiTaskModel.objectives`.
        processes: Those that train together; None: this one alone.
    """

    model: MultiTaskModel
    weights: Mapping[str, float]
    together: bool
    processes: Processes | None = None

    def compute(self, batch: Batch, totals: Mapping[str, Tensor] | None = None) -> Objectives:
        """See `MultiTaskModel.objectives`."""
        return self.model.objectives(batch, totals, together=self.together)

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses times the tasks' weights."""
        # A product with 1 would be one more node to pass through.
        return {task: loss if (w := self.weights[task]) == 1 else loss * w for task, loss in losses.items()}

    def of(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """The weighted losses of a step, in all of the processes; where there are several, without a graph."""
        if self.processes is None and len(batches) == 1:
            return self.weighted(self.compute(batches[0]).losses)
        totals = self.extent(batches).totals
        losses: dict[str, Tensor] = {}
        for batch in batches:
            losses = added(losses, self.compute(batch, totals).losses)
        return self.weighted(self.everywhere(losses, tuple(totals)))

    def extent(self, batches: Sequence[Batch]) -> Extent:
        """How large a step of these batches is; called in all of the processes."""
        return extent_of(self.model, batches, self.processes)

    def everywhere(self, losses: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """Losses of some tasks, added up over the processes, in the tasks' order."""
        if self.processes is None or not tasks:
            return {task: losses[task] for task in tasks if task in losses}
        nothing = torch.zeros((), device=next(self.model.parameters()).device)
        values = self.processes.sum(torch.stack([losses.get(task, nothing).detach().float() for task in tasks]))
        return dict(zip(tasks, values.unbind(), strict=True))

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The model's parameters that learn."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def added(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What has the same name, added up."""
    return {**one, **{name: one[name] + value if name in one else value for name, value in other.items()}}


def add_penalties(penalties: Mapping[str, Tensor], scaler: Any) -> None:
    """Accumulate the plain gradients of the penalties: balancers weigh tasks, and nothing else."""
    active = [penalty for penalty in penalties.values() if penalty.requires_grad]
    if active:
        total = torch.stack(active).sum()
        (total if scaler is None else scaler.scale(total)).backward(retain_graph=True)
