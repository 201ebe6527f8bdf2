"""The gradients of a step of several batches, or of several processes: those of one batch of all their rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polytask.balancing import Balancer, Step
from polytask.balancing.accumulation import GradientSum
from polytask.balancing.processes import sum_gradients
from polytask.balancing.stand_ins import stand_in
from polytask.data.batch import Batch
from polytask.model import Objectives
from polytask.training.batch_parts import every_row, share_of
from polytask.training.extent import Extent
from polytask.training.step_losses import StepLosses, add_penalties, added


@dataclass(frozen=True)
class LargeStep:
    """How the gradients of a step of several batches or processes are made.

    Attributes:
        losses: Computes the losses.
        balancer: Turns them into gradients.
    """

    losses: StepLosses
    balancer: Balancer

    def backward(
        self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any, extent: Extent
    ) -> Objectives:
        """Accumulate the gradients of a step; called in all of the processes.

        Args:
            batches: The batches of this process: all rows of all processes belong to the same means.
            shared: The shared parameters.
            scaler: The gradient scaler of training in float16, if there is one.
            extent: Of the step; some task has a label in it.

        Returns:
            The losses of the step, and the penalties on the batches of this process; without losses where nothing was
            done, because no task has a label wherever it needs one.
        """
        if self.losses.processes is not None and self.balancer.level == "loss" and extent.most == 1:
            return self._at_once(batches, shared, scaler, extent)
        if self.balancer.additive:
            return self._added_up(batches, shared, scaler, extent)
        return self._accumulated(batches, shared, scaler, extent)

    def _at_once(
        self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any, extent: Extent
    ) -> Objectives:
        """A step of one batch in each process, for a balancer that needs the losses alone: one pass.

        The balancer sees losses with the values of the whole step, and the gradients of this process. As it takes their
        gradients times weights that follow from the values, the sum over the processes is the gradient of the step.
        """
        found = self.losses.compute(batches[0], extent.totals) if batches else Objectives({}, {})
        shares = {name: value / extent.batches for name, value in found.penalties.items()}
        add_penalties(shares, scaler)
        own = self.losses.weighted(found.losses)
        values = self.losses.everywhere(found.losses, tuple(extent.totals))
        anchor = self.losses.trainable[0]
        seen = {
            # A task that is not in this process has a loss, too: without a gradient here, but for the others to see.
            task: own[task] + (value - own[task].detach())
            if task in own
            else stand_in(value, (anchor,), (torch.zeros_like(anchor),))
            for task, value in self.losses.weighted(values).items()
        }
        self.balancer.backward(seen, shared, scaler=scaler)
        sum_gradients(self.losses.trainable)
        return Objectives(values, found.penalties)

    def _accumulated(
        self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any, extent: Extent
    ) -> Objectives:
        """Task gradients are measured batch by batch, and added up, before the balancer sees them."""
        count = self.balancer.batches
        sums, parts = [], [every_row(batches, count, start) for start in range(count)] if count > 1 else [batches]
        for part in parts:
            size = self.losses.extent(part) if count > 1 else extent
            found, measured = self._measured(part, shared, scaler, size, penalise=part is parts[-1])
            sums.append(measured)
        # So far only penalties have left gradients, each process its own.
        sum_gradients(self.losses.trainable)
        everywhere = [task for task in found.losses if all(task in each for each in sums)]
        if not everywhere:
            return Objectives({}, {})
        chosen = [{task: each[task] for task in everywhere} for each in sums]
        probe = None
        if self.balancer.batch_fraction < 1:
            shares = [share_of(batch, self.balancer.batch_fraction) for batch in batches if len(batch)]
            _, probe = self._measured(shares, shared, scaler, self.losses.extent(shares), penalise=False)
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
        sum_gradients(self.losses.trainable)
        # What the balancer found last was about the last batch alone.
        values = torch.stack(list(self.losses.weighted(found.losses).values()))
        # Of a task that other processes alone have in this step, the weight is not known here.
        unknown = values.new_full((), math.nan)
        known = torch.stack([weights.get(task, unknown) for task in found.losses]) if weights else None
        self.balancer.last = Step(tuple(found.losses), values, known)
        return found

    def _measured(
        self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any, extent: Extent, *, penalise: bool
    ) -> tuple[Objectives, dict[str, Tensor]]:
        """What `_summed` gives, and losses with the task gradients of all these batches, in all processes."""
        gradients = GradientSum(self.losses.trainable, self.losses.model.task_names, shared=shared)
        found = self._summed(batches, scaler, partial(gradients.add, scaler=scaler), extent, penalise=penalise)
        gradients.reduce()
        return found, gradients.losses()

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
            found = self.losses.compute(batch, extent.totals)
            shares = {name: value / extent.batches for name, value in found.penalties.items()}
            shown = {name: value.detach() / len(batches) for name, value in found.penalties.items()}
            penalties = added(penalties, shown)
            losses = added(losses, {task: loss.detach() for task, loss in found.losses.items()})
            if penalise:
                add_penalties(shares, scaler)
            if found.losses:
                each(self.losses.weighted(found.losses))
        return Objectives(self.losses.everywhere(losses, tuple(extent.totals)), penalties)
