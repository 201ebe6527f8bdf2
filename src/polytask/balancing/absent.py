"""The gradients that absent tasks had when they were last there."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.accumulation import GradientSum
from polytask.balancing.balancer import Step
from polytask.balancing.gradients import pieces
from polytask.balancing.graph import Graph
from polytask.balancing.per_task import PerTask
from polytask.balancing.stand_ins import stand_in
from polytask.balancing.task_vectors import TaskVectors

logger = logging.getLogger("polytask")


class LastGradients(nn.Module):
    """Keeps the last gradient of each task for the shared parameters, P numbers, and its last loss.

    A step whose numbers are not finite leaves everything as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gradients = TaskVectors("absent='last'", ["gradient"])
        self.numbers = PerTask({"loss": 0.0})

    def complete(
        self, tasks: Sequence[str], losses: Sequence[Tensor], shared: Sequence[Tensor], scaler: GradScaler | None
    ) -> dict[str, Tensor]:
        """Take in a step, and give it with the absent tasks.

        Args:
            tasks: The tasks that are there.
            losses: Their losses, not scaled.
            shared: The shared parameters.
            scaler: Scales the losses while they are passed backward.

        Returns:
            Stand-ins for the losses of these tasks, and then of those that were there before. The latter reach nothing
            but the shared parameters.
        """
        graph = Graph(losses)
        reached = [*graph.shared(), *(parameter for index in range(len(losses)) for parameter in graph.own(index))]
        total = GradientSum([*shared, *reached], tasks, shared=shared)
        total.add(dict(zip(tasks, losses, strict=True)), scaler)
        completed = total.losses()
        rows = [total.gradient(task, shared) for task in tasks]
        self._forget_others(rows[0])
        for task in self.gradients.tasks:
            if task not in completed:
                (gradient,), (loss,) = (
                    self.gradients.read("gradient", [task]),
                    self.numbers.read("loss", [task], losses[0].device),
                )
                # A copy: the row changes when the task comes back.
                parts = pieces(shared, gradient.clone())
                completed[task] = stand_in(loss.to(losses[0].dtype), shared, [part for _, part in parts])
        self._keep(tasks, torch.stack(list(losses)).detach(), rows)
        return completed

    def _forget_others(self, row: Tensor) -> None:
        known = self.gradients.get_buffer("gradient")
        if self.gradients.tasks and known.shape[1] != len(row):
            logger.warning(
                "absent='last': the shared parameters were %d numbers so far, and are %d now (frozen, or not any more?)"
                ", so that the last gradients of absent tasks do not fit. They are forgotten.",
                known.shape[1],
                len(row),
            )
            self.gradients = TaskVectors("absent='last'", ["gradient"])

    @torch.no_grad()
    def _keep(self, tasks: Sequence[str], losses: Tensor, rows: Sequence[Tensor]) -> None:
        valid = losses.isfinite().all() & torch.stack([row.isfinite().all() for row in rows]).all().to(losses.device)
        new = [task for task in tasks if task not in self.gradients.tasks]
        if new and not valid:
            # Only here the device is waited for: what was not finite would count as a gradient of 0 later.
            return
        self.gradients.add(tasks, rows[0])
        self.gradients.follow("gradient", tasks, rows, torch.ones(len(tasks)), valid.to(rows[0].device))
        before = self.numbers.read("loss", tasks, losses.device)
        self.numbers.write("loss", tasks, torch.where(valid, losses.to(before.dtype), before))


def without_absent(step: Step, count: int) -> Step:
    """What a step says of the first tasks, those that are there."""
    return Step(
        step.tasks[:count],
        step.loss_values[:count],
        None if step.weight_values is None else step.weight_values[:count],
        None if step.gramian is None else step.gramian[:count, :count],
    )
