"""What a method keeps for each task, found by the task's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class PerTask(nn.Module):
    """Numbers for each task, in one vector a field.

    Tasks can come at any time; a task that is not in a step keeps its numbers. The state dictionary holds the names,
    so that loading it needs no preparation.

    Args:
        initial: The fields, and the value that each has for a new task.
    """

    def __init__(self, initial: Mapping[str, float]) -> None:
        super().__init__()
        self._initial = dict(initial)
        self._where: dict[str, int] = {}
        for field in initial:
            self.register_buffer(field, torch.empty(0))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have numbers, in order."""
        return tuple(self._where)

    def add(self, tasks: Sequence[str]) -> None:
        """Make room for tasks; those that are there already stay as they are."""
        new = [task for task in dict.fromkeys(tasks) if task not in self._where]
        if not new:
            return
        for task in new:
            self._where[task] = len(self._where)
        for field, value in self._initial.items():
            before = self.get_buffer(field)
            setattr(self, field, torch.cat([before, before.new_full((len(new),), value)]))

    def read(self, field: str, tasks: Sequence[str], device: torch.device) -> Tensor:
        """`[K]`, the numbers of some tasks, on `device`."""
        self.add(tasks)
        if self.get_buffer(field).device != device:
            self.to(device)
        values = self.get_buffer(field)
        return values if tuple(tasks) == self.tasks else values[self._positions(tasks, device)]

    def write(self, field: str, tasks: Sequence[str], values: Tensor) -> None:
        """Put `[K]` numbers in the place of those of some tasks."""
        if tuple(tasks) == self.tasks:
            setattr(self, field, values)
        else:
            before = self.get_buffer(field)
            setattr(self, field, before.index_put((self._positions(tasks, before.device),), values))

    def get_extra_state(self) -> dict[str, Any]:
        """The tasks' names."""
        return {"tasks": list(self.tasks)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take the names back; `_load_from_state_dict` has made room for the numbers."""
        self._where = {task: index for index, task in enumerate(state["tasks"])}

    def _positions(self, tasks: Sequence[str], device: torch.device) -> Tensor:
        return torch.tensor([self._where[task] for task in tasks]).to(device, non_blocking=True)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for field in self._initial:
            loaded = state_dict.get(prefix + field)
            if loaded is not None:
                setattr(self, field, torch.empty_like(loaded, device=self.get_buffer(field).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class TaskParameters(nn.Module):
    """A trainable number for each task, one parameter each, for the user's optimiser.

    One each, so that an optimiser leaves the number of a task without a gradient alone: in a vector, momentum and
    weight decay would go on moving it.

    Args:
        initial: The value for a new task.
    """

    def __init__(self, initial: float) -> None:
        super().__init__()
        self._initial = initial

    def add(self, tasks: Sequence[str], device: torch.device | None = None) -> list[str]:
        """Make room for tasks, on `device`, and return those that are new; the others stay as they are."""
        new = [task for task in tasks if _key(task) not in self._parameters]
        for task in new:
            self._parameters[_key(task)] = nn.Parameter(torch.tensor(self._initial, device=device))
        return new

    def read(self, tasks: Sequence[str], device: torch.device) -> Tensor:
        """`[K]`, the numbers of some tasks that were added, on `device`, with their gradients."""
        # Not as attributes: a task can be called `type`.
        numbers = [self._parameters[_key(task)] for task in tasks]
        return torch.stack(numbers).to(device, non_blocking=True)  # type: ignore[arg-type]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for key in state_dict:
            if key.startswith(prefix):
                self._parameters.setdefault(key.removeprefix(prefix), nn.Parameter(torch.tensor(self._initial)))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _key(task: str) -> str:
    # State dictionaries use the dot.
    return task.replace("%", "%25").replace(".", "%2E")
