"""The gradient of a step that looks where some steps on one task lead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from polytask.data.batch import Batch
from polytask.schedules import InnerLoop
from polytask.training.balanced_step import BalancedStep, StepResult


@dataclass(frozen=True)
class MetaStep:
    """How the gradients of a step are made where it is one of meta-learning; see `polytask.schedules.Meta`.

    Attributes:
        plain: Makes the gradients of the inner steps: they are those of an ordinary step.
        inner: The inner steps.
    """

    plain: BalancedStep
    inner: InnerLoop

    def backward(self, batches: Sequence[Batch], shared: Sequence[nn.Parameter], scaler: Any) -> StepResult:
        """Put the meta-gradient into `.grad`.

        Args:
            batches: Those of the step: for the inner steps in turn; the last one is for the query, if there is one.
            shared: The shared parameters.
            scaler: The gradient scaler of training in float16, if there is one.

        Returns:
            The losses and penalties of the last batch, after the inner steps that come before it, and the labelled rows
            of all batches; without losses where nothing was done.
        """
        support, query = self._divided(batches)
        if not support:
            return StepResult({}, {}, {})
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        parameters = [parameter for parameter in self.plain.model.parameters() if parameter.requires_grad]
        before = [parameter.detach().clone() for parameter in parameters]
        found = StepResult({}, {}, {})
        moved: set[nn.Parameter] = set()
        for step in range(self.inner.steps):
            found = self.plain.backward([support[step % len(support)]], shared, scaler)
            moved |= _descend(parameters, self.inner.lr / scale)
        if query is not None:
            found = self.plain.backward([query], shared, scaler)
        with torch.no_grad():
            for parameter, start in zip(parameters, before, strict=True):
                # What did not move has no gradient, and is left alone by weight decay too.
                if query is None and parameter in moved:
                    parameter.grad = (start - parameter) * (scale / (self.inner.lr * self.inner.steps))
                parameter.copy_(start)
        return found._replace(rows={task: sum(batch.count(task) for batch in batches) for task in found.losses})

    def look_ahead(
        self, batches: Sequence[Batch], held_out: Batch, parameters: Sequence[nn.Parameter], lr: float, scaler: Any
    ) -> None:
        """See `BalancedStep.look_ahead`."""
        self.plain.look_ahead(batches, held_out, parameters, lr, scaler)

    def look_back(self, batches: Sequence[Batch]) -> None:
        """See `BalancedStep.look_back`."""
        self.plain.look_back(batches)

    def _divided(self, batches: Sequence[Batch]) -> tuple[Sequence[Batch], Batch | None]:
        """The batches of the inner steps, and that of the query where there is one."""
        if not self.inner.query or not batches:
            return batches, None
        if len(batches) > 1:
            return batches[:-1], batches[-1]
        (batch,) = batches
        if len(batch) < 2:
            return batches, batch
        halves = [batch.part(torch.arange(start, len(batch), 2)) for start in range(2)]
        return halves[:1], halves[1]


@torch.no_grad()
def _descend(parameters: Sequence[nn.Parameter], lr: float) -> set[nn.Parameter]:
    """One step of plain gradient descent, after which there are no gradients; which parameters it moved."""
    moved = set()
    for parameter in parameters:
        if parameter.grad is not None:
            gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            parameter.sub_(gradient, alpha=lr)
            parameter.grad = None
            moved.add(parameter)
    return moved
