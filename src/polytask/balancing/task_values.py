"""Numbers that the user sets for the tasks: weights, preferences, targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polytask.errors import UserError, closest, listing


class TaskValues:
    """A number for each task, by name or in the order of the tasks.

    Args:
        method: The balancer's name, for messages: `"static"`.
        what: What a number is, for messages: `"weight"`.
        values: The numbers, by task name or in order.
        minimum: The least that is allowed; None: any number.
        above: Whether `minimum` itself is not allowed.

    Raises:
        UserError: A number is out of range, or there is none.
    """

    def __init__(
        self,
        method: str,
        what: str,
        values: Mapping[str, float] | Sequence[float],
        *,
        minimum: float | None = None,
        above: bool = False,
    ) -> None:
        self._method, self._what = method, what
        named = values if isinstance(values, Mapping) else {str(i): value for i, value in enumerate(values)}
        for task, value in named.items():
            if not (math.isfinite(value) and (minimum is None or value > minimum or (value == minimum and not above))):
                allowed = "" if minimum is None else f" {'above' if above else 'of at least'} {minimum:g}"
                raise UserError(f"{method}: the {what} of task '{task}' is {value}, but must be a number{allowed}.")
        if not named:
            raise UserError(f"{method}: there are no {what}s. Give one for each task.")
        self._in_order = None if isinstance(values, Mapping) else tuple(values)
        self._values = dict(named) if isinstance(values, Mapping) else None
        self._row: Tensor | None = None
        self._row_tasks: tuple[str, ...] = ()

    def prepare(self, tasks: Sequence[str]) -> None:
        """Check against all tasks that there will be.

        Raises:
            UserError: A task has no number, or a number no task.
        """
        values = self._named(tasks)
        for task in values:
            if task not in tasks:
                raise UserError(
                    f"{self._method}: there is a {self._what} for '{task}', which is no task."
                    f"{closest(task, tasks)} The tasks: {listing(tasks)}."
                )
        self._check(tasks, values)

    def read(self, tasks: Sequence[str], like: Tensor) -> Tensor:
        """`[K]`, the numbers of some tasks, of the type and on the device of `like`.

        Raises:
            UserError: A task has no number.
        """
        tasks = tuple(tasks)
        row = self._row
        if row is None or self._row_tasks != tasks or row.dtype != like.dtype or row.device != like.device:
            values = self._named(tasks)
            self._check(tasks, values)
            row = torch.tensor([float(values[task]) for task in tasks], dtype=like.dtype)
            row = row.to(like.device, non_blocking=True)
            # Kept, so that the numbers move to the device once and not at every step.
            self._row, self._row_tasks = row, tasks
        return row

    def _named(self, tasks: Sequence[str]) -> dict[str, float]:
        """The numbers by task name; numbers in order are for the first tasks that this meets."""
        if self._values is None:
            assert self._in_order is not None
            if len(tasks) != len(self._in_order):
                raise UserError(
                    f"{self._method}: there are {len(self._in_order)} {self._what}s for {len(tasks)} tasks, "
                    f"{listing(tasks)}. Give one for each, or {self._what}s by task name; where a step can lack a "
                    "task, call prepare(task_names) first."
                )
            self._values = dict(zip(tasks, self._in_order, strict=True))
        return self._values

    def _check(self, tasks: Sequence[str], values: Mapping[str, float]) -> None:
        for task in tasks:
            if task not in values:
                raise UserError(
                    f"{self._method}: there is no {self._what} for task '{task}'.{closest(task, values)} There are "
                    f"{self._what}s for: {listing(values)}."
                )
