"""Sums of task gradients over micro-batches and processes, for any balancer to work on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.amp import GradScaler

from polytask.balancing.features import last_parameters
from polytask.balancing.gradients import clear_about_a_second_pass, flat
from polytask.balancing.graph import Graph
from polytask.balancing.precision import without_autocast
from polytask.balancing.processes import kind_of, kinds_anywhere, several_processes, sum_of_gradients
from polytask.balancing.stand_ins import stand_in, stand_ins_behind
from polytask.errors import UserError, closest, listing

_REACHED, _INNER = 1, 2
"""Whether another shared parameter separates a shared one from the heads."""


class GradientSum:
    """Adds up the gradients of every task over the micro-batches and processes of one step.

    A method that looks at losses or gradients has to see those of the whole step: weights found for each micro-batch
    by itself, and then added up, are other weights. So each micro-batch's gradients are measured, task by task, and
    added; then `losses()` gives a scalar for each task that has the sum as its value and as its gradient. A balancer
    takes it for the loss of one large batch:

    ```python
    total = GradientSum(model.parameters(), ["price", "sold"])
    for part in parts:
        total.add({task: loss * share for task, loss in losses_of(part).items()})
    balancer.backward(total.losses(), shared=trunk.parameters())
    optimizer.step()
    ```

    Scale the losses such that their sum over the micro-batches (and processes) is the loss of the step: where each is a
    mean over labelled samples, by their share of the step's labelled samples.

    A micro-batch costs a whole backward pass for each of its tasks. Memory: the gradients of K tasks, for what each
    reaches, and as much again while the balancer works on them. What a batch couples, such as batch normalisation,
    works on micro-batches.

    Args:
        parameters: All trainable parameters of the model, in an order that is the same in all processes. Frozen ones
            may be among them.
        tasks: The names of all tasks, in an order that is the same in all processes.
        shared: The shared parameters, for balancers with `on="last"`: the last shared layer is found while there is a
            network. None: what more than one loss of a micro-batch reaches.

    Raises:
        UserError: There is no parameter, or one is distributed over processes.
    """

    def __init__(
        self, parameters: Iterable[Tensor], tasks: Sequence[str], *, shared: Iterable[Tensor] | None = None
    ) -> None:
        self._parameters = tuple(dict.fromkeys(parameters))
        self._tasks = tuple(dict.fromkeys(tasks))
        self._shared = None if shared is None else tuple(dict.fromkeys(shared))
        if not self._parameters:
            raise UserError(
                "GradientSum got no parameters. Give all trainable ones: GradientSum(model.parameters(), ...)."
            )
        for parameter in self._parameters:
            if type(parameter).__name__ == "DTensor":
                raise UserError(
                    "A parameter is distributed over several processes, which GradientSum does not support."
                )
        self._where = {parameter: place for place, parameter in enumerate(self._parameters)}
        kinds = {parameter.dtype for parameter in self._parameters if parameter.is_floating_point()}
        self._dtype = reduce(torch.promote_types, kinds, torch.float32)
        self._values: dict[str, Tensor] = {}
        self._rows: dict[str, dict[int, Tensor]] = {}
        self._places: dict[int, int] = {}
        self._local = False
        self._reduced = False

    @torch.enable_grad()
    def add(self, losses: Mapping[str, Tensor], scaler: GradScaler | None = None) -> None:
        """Add the gradients of a micro-batch, whose graph is used up.

        Values and gradients that are not finite are added as they are.

        Args:
            losses: The losses of the tasks that are in it, scalars by task name; none is fine.
            scaler: Scales the losses for training in float16 while they are passed backward. What is added up is not
                scaled: give the scaler to the balancer as well.

        Raises:
            UserError: A task or a parameter is not known, a loss is no scalar, a parameter has a hook on its gradient,
                or the sums are complete.
        """
        if self._reduced:
            raise UserError("The sums are complete after reduce(). Make a new GradientSum for the next step.")
        self._check(losses)
        with without_autocast():
            scaled = list(losses.values()) if scaler is None else [scaler.scale(loss) for loss in losses.values()]
            graph = Graph(scaled)
            self._local = self._local or stand_ins_behind(scaled) is None
            self._note_last(graph)
            self._check_reached("several tasks", graph.shared())
            final = max((index for index, loss in enumerate(scaled) if loss.requires_grad), default=-1)
            for index, (task, loss) in enumerate(losses.items()):
                value = loss.detach().to(self._parameters[0].device, self._dtype)
                self._values[task] = self._values[task] + value if task in self._values else value
                if not loss.requires_grad:
                    continue
                self._check_reached(f"task '{task}'", graph.own(index))
                wanted = [*graph.shared(), *graph.own(index)]
                with clear_about_a_second_pass():
                    found = torch.autograd.grad(scaled[index], wanted, retain_graph=index != final, allow_unused=True)
                self._add(
                    task, wanted, found, None if scaler is None else 1 / scaler.scale(torch.ones_like(loss.detach()))
                )

    @torch.no_grad()
    def reduce(self) -> None:
        """Add up over the processes of `torch.distributed`, if there are several; call it in each of them.

        Tasks, and parameters, may be missing in any of them. Afterwards every process has the same sums.
        """
        if self._reduced or not self._reduces:
            self._reduced = True
            return
        flags = self._exchanged_flags()
        home = self._parameters[0].device
        zero = torch.zeros((), dtype=self._dtype, device=home)
        values = torch.stack([self._values.get(task, zero) for task in self._tasks])
        torch.distributed.all_reduce(values)
        rows: dict[str, dict[int, Tensor]] = {}
        for task, value, known in zip(self._tasks, values.unbind(), flags, strict=False):
            if not known[-1]:
                self._values.pop(task, None)
                continue
            self._values[task] = value
            kinds = {place: int(kind) for place, kind in enumerate(known[:-1].tolist()) if kind}
            # Task by task, so that only one row is there twice.
            rows[task] = sum_of_gradients(self._parameters, self._rows.pop(task, {}), kinds)
        self._rows = rows
        self._places = {place: kind for place, kind in enumerate(flags[-1][:-1].tolist()) if kind}
        self._reduced = True

    def losses(self) -> dict[str, Tensor]:
        """A scalar for each task that had a loss, with the sums as its value and its gradient, in the tasks' order.

        Raises:
            UserError: There are several processes, and `reduce` was not called.
        """
        if not self._reduced and self._reduces:
            raise UserError(
                "There are several processes, and each has the gradients of its own samples only. Call reduce() in all "
                "of them before losses()."
            )
        last = [self._parameters[place] for place in sorted(self._places) if self._places[place] == _REACHED]
        found = {}
        for task in self._tasks:
            if task in self._values:
                row = self._rows.get(task, {})
                places = sorted(row)
                chosen = [self._parameters[place] for place in places]
                found[task] = stand_in(self._values[task], chosen, [row[place] for place in places], last or None)
        return found

    def gradient(self, task: str, parameters: Sequence[Tensor]) -> Tensor:
        """`[P]`, a task's gradient for some of the parameters, P numbers in all; 0 for what it does not reach."""
        row = self._rows.get(task, {})
        dtype = reduce(torch.promote_types, {parameter.dtype for parameter in parameters}, torch.float32)
        return torch.cat([flat(row.get(self._where.get(p, -1)), p, dtype) for p in parameters])

    @property
    def _reduces(self) -> bool:
        # Sums of what is the same everywhere are so themselves.
        return several_processes() and (self._local or not self._values)

    def _check(self, losses: Mapping[str, Tensor]) -> None:
        for task, loss in losses.items():
            if task not in self._tasks:
                raise UserError(
                    f"There is a loss for '{task}', which is no task.{closest(task, self._tasks)} The tasks: "
                    f"{listing(self._tasks)}."
                )
            if not isinstance(loss, Tensor) or loss.ndim:
                found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r}"
                raise UserError(f"The loss of task '{task}' is {found}, but must be a scalar tensor, such as a mean.")

    def _check_reached(self, whose: str, wanted: Sequence[Tensor]) -> None:
        for parameter in wanted:
            if parameter not in self._where:
                raise UserError(
                    f"The loss of {whose} depends on a parameter of shape {tuple(parameter.shape)} that GradientSum "
                    "was not given. Give all trainable ones: GradientSum(model.parameters(), ...)."
                )
            if parameter._backward_hooks:
                raise UserError(
                    f"A parameter of shape {tuple(parameter.shape)} has a hook on its gradient (register_hook), which "
                    "would run for each micro-batch and once more for their sum. Change the gradient before the "
                    "optimiser's step instead."
                )

    def _add(
        self, task: str, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], factor: Tensor | None
    ) -> None:
        row = self._rows.setdefault(task, {})
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            place = self._where[parameter]
            new = gradient.detach().to(torch.promote_types(parameter.dtype, torch.float32))
            new = new if factor is None else new * factor.to(new.device, new.dtype)
            before = row.get(place)
            # Never in place: autograd can hand out one tensor twice.
            row[place] = new if before is None else _sum(before, new)

    def _note_last(self, graph: Graph) -> None:
        """Note which shared parameters are the last ones before the heads, among those that are reached."""
        shared = graph.shared() if self._shared is None else self._shared
        reached = [parameter for parameter in shared if graph.leaf(parameter) is not None]
        last = set(last_parameters(graph.crossings(reached), reached))
        for parameter in reached:
            place = self._where.get(parameter)
            if place is not None:
                # With one task alone everything looks like the last layer, so that the greater number counts.
                now = _REACHED if parameter in last else _INNER
                self._places[place] = max(now, self._places.get(place, now))

    def _exchanged_flags(self) -> Tensor:
        """`[K + 1, N + 1]`, what any process has.

        How each task's gradient of each parameter is held, and whether the task has a loss; in the last row, what is
        known of the last shared layer.
        """
        flags = [[0] * (len(self._parameters) + 1) for _ in range(len(self._tasks) + 1)]
        for number, task in enumerate(self._tasks):
            flags[number][-1] = int(task in self._values)
            for place, gradient in self._rows.get(task, {}).items():
                flags[number][place] = kind_of(gradient)
        for place, kind in self._places.items():
            flags[-1][place] = kind
        return kinds_anywhere(flags, self._parameters[0].device)


def _sum(one: Tensor, other: Tensor) -> Tensor:
    if one.is_sparse and other.is_sparse:
        return (one + other).coalesce()
    return (one.to_dense() if one.is_sparse else one) + (other.to_dense() if other.is_sparse else other)
