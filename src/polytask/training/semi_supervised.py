"""What tasks learn from rows that lack their labels, beside the balanced losses of those that have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from polytask.balancing.processes import sum_gradients
from polytask.data.batch import Batch
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.sharing import Trunk
from polytask.tasks.unlabelled import Unlabelled, UnlabelledLoss, require_probabilities
from polytask.training.processes import Processes
from polytask.training.views import Views


class UnlabelledStep(NamedTuple):
    """What a step has shown of a task's rows without labels.

    Attributes:
        loss: The mean loss over the entries that lack a label, before it is weighted: a scalar, detached.
        confident: The share of them that a label was made up for, a scalar; None: none is made up.
        entries: How many there are.
    """

    loss: Tensor
    confident: Tensor | None
    entries: int


class SemiSupervised:
    """Adds the gradients of what tasks learn from rows without their labels.

    These are plain gradients, as those of a sharing scheme's penalties: balancers weigh tasks, and nothing else. Both
    views pass through the network as it is in training, with dropout and batch statistics of their own.

    Args:
        model: The network.
        uses: For each task that learns from such rows, how.

    Raises:
        UserError: A task has no probabilities, and how it is to learn needs them.
    """

    def __init__(self, model: MultiTaskModel, uses: Mapping[str, Unlabelled]) -> None:
        self._model = model
        self._uses = {name: uses[name] for name in model.task_names if name in uses}
        for name, use in self._uses.items():
            require_probabilities(use, name, type(model.tasks[name]))

    def backward(
        self, views: Views, progress: float, scaler: Any = None, processes: Processes | None = None
    ) -> dict[str, UnlabelledStep]:
        """Accumulate the gradients of a step, after those of its labelled rows.

        Args:
            views: The rows of this process.
            progress: How much of the training is done, from 0 to 1.
            scaler: The gradient scaler of training in float16, if there is one.
            processes: Those that train together: all of them call it, and their rows belong to the same means. None:
                this one alone.

        Returns:
            What the step has shown, for each task that has such rows, in all processes.
        """
        totals = self._totals(views, processes)
        found = self._losses(views, totals)
        terms = []
        for name, (loss, _) in found.items():
            factor = self._uses[name].strength(progress) * self._model.tasks[name].weight
            if loss.requires_grad:
                terms.append(loss * factor)
        with _apart(self._model, processes):
            if terms:
                total = torch.stack(terms).sum()
                (total if scaler is None else scaler.scale(total)).backward()
        return self._everywhere(found, totals, processes)

    def _totals(self, views: Views, processes: Processes | None) -> dict[str, int]:
        """How many entries lack a label for each task, in all processes; only tasks that have some."""
        own = [views.entries.get(name, 0) for name in self._uses]
        each = [own] if processes is None else processes.numbers(own)
        sums = {name: sum(numbers[place] for numbers in each) for place, name in enumerate(self._uses)}
        return {name: total for name, total in sums.items() if total}

    def _losses(self, views: Views, totals: Mapping[str, int]) -> dict[str, UnlabelledLoss]:
        """The losses of this process's rows."""
        names = [name for name in totals if name in views.rows]
        if not names:
            return {}
        with _only_outputs(self._model.trunk):
            # In this order: autocast of older PyTorch keeps weights that it has cast without gradients, and uses them
            # in later passes that need some (pytorch/pytorch#158232).
            outputs = self._model(views.other.inputs, names, views.rows)
            with torch.no_grad():
                reference = self._model(views.reference.inputs, names, views.rows)
        return {
            name: self._uses[name].loss(
                self._model.tasks[name], outputs[name], reference[name], views.missing[name], totals[name]
            )
            for name in names
        }

    def _everywhere(
        self, found: Mapping[str, UnlabelledLoss], totals: Mapping[str, int], processes: Processes | None
    ) -> dict[str, UnlabelledStep]:
        if processes is None:
            return {
                name: UnlabelledStep(found[name].loss.detach(), found[name].confident, total)
                for name, total in totals.items()
            }
        if not totals:
            return {}
        nothing = torch.zeros((), device=next(self._model.parameters()).device)
        values = [value for name in totals for value in found.get(name, UnlabelledLoss(nothing, nothing))]
        stacked = torch.stack([nothing if value is None else value.detach().float() for value in values])
        sums = processes.sum(stacked).view(-1, 2)
        return {
            name: UnlabelledStep(loss, confident if self._uses[name].makes_labels else None, totals[name])
            for name, (loss, confident) in zip(totals, sums, strict=True)
        }


@contextmanager
def _apart(model: nn.Module, processes: Processes | None) -> Iterator[None]:
    """Add up, over the processes, the gradients that come inside, and not those that are there already."""
    if processes is None:
        yield
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    yield
    sum_gradients(parameters)
    for parameter, gradient in zip(parameters, before, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad


@contextmanager
def _only_outputs(trunk: Trunk) -> Iterator[None]:
    """Keep a scheme's adversary out: it learns from the tasks that rows are labelled for, and here it is the others."""
    training = trunk.training
    # The mode of this module alone, which decides about penalties; its stages stay in training.
    trunk.training = training and not trunk.tells_tasks_by_rows
    try:
        yield
    finally:
        trunk.training = training


def require_two_views(model: MultiTaskModel, uses: Mapping[str, Unlabelled], rows: Batch) -> None:
    """Make sure that two views of the same rows differ, where inputs are not augmented: the network has to draw.

    Args:
        model: The network, in training; it stays as it is.
        uses: For each task that learns from rows without its labels, how.
        rows: Some rows to try it on.

    Raises:
        UserError: A task compares two views that are always the same.
    """
    for name, use in uses.items():
        if use.needs_other_view and not _draws(model, [name], rows):
            raise UserError(
                f"training.tasks.{name}.unlabelled compares two views of each row, but here both are always the same: "
                "no input is augmented, and the network has no dropout. Turn on augmentation (flip, crop, color or "
                "rand_augment of an image input) or the encoder's dropout, or take {type: pseudo_labels}."
            )


@torch.no_grad()
def _draws(model: MultiTaskModel, tasks: Sequence[str], rows: Batch) -> bool:
    """Whether the network draws random numbers to compute some tasks."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=[]), _only_outputs(model.trunk):
        before = torch.get_rng_state()
        # Copies take the place of the buffers, so that batch statistics stay as they are.
        functional_call(model, buffers, (rows.inputs, tasks))
        return not torch.equal(before, torch.get_rng_state())
