"""Vectors that a method keeps for each task: moving averages of its gradient, and the like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.errors import UserError


class TaskVectors(nn.Module):
    """Moving averages of P numbers for each task, in one matrix a field.

    A task starts at zeros when it is first met, and keeps its numbers while it is absent. Each field takes the memory
    of K gradients. The state dictionary holds everything, so that loading it needs no preparation.

    Args:
        method: The balancer's name, for messages: `"moco"`.
        fields: What is averaged.
        unit: What the shared parameters have P of, for messages.
    """

    def __init__(self, method: str, fields: Sequence[str], unit: str = "numbers") -> None:
        super().__init__()
        self._method, self._fields, self._unit = method, tuple(fields), unit
        self._where: dict[str, int] = {}
        for field in fields:
            self.register_buffer(field, torch.empty(0, 0))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have numbers, in order."""
        return tuple(self._where)

    def add(self, tasks: Sequence[str], like: Tensor) -> None:
        """Make room for tasks; those that are there already stay as they are.

        Args:
            tasks: The tasks.
            like: A tensor of P columns, for the type and the device.

        Raises:
            UserError: There were not P numbers before.
        """
        columns = like.shape[-1]
        new = [task for task in dict.fromkeys(tasks) if task not in self._where]
        for field in self._fields:
            before = self.get_buffer(field)
            if not self._where:
                before = like.new_zeros(0, columns)
            elif before.shape[1] != columns:
                raise UserError(
                    f"{self._method}: the shared parameters were {before.shape[1]} {self._unit} so far, and are "
                    f"{columns} in this step, which does not fit what is kept for each task. Name them with "
                    "`shared=`, so that they are the same in each step."
                )
            if new:
                before = torch.cat([before.to(like), like.new_zeros(len(new), columns)])
            setattr(self, field, before.to(like))
        for task in new:
            self._where[task] = len(self._where)

    def read(self, field: str, tasks: Sequence[str]) -> Tensor:
        """`[K, P]`, the averages of some tasks that are there; not to be changed in place."""
        values = self.get_buffer(field)
        if tuple(tasks) == self.tasks:
            return values
        return values[torch.tensor([self._where[task] for task in tasks]).to(values.device, non_blocking=True)]

    def follow(
        self, field: str, tasks: Sequence[str], targets: Iterable[Tensor], rates: Tensor, valid: Tensor
    ) -> Tensor:
        """Move the averages of some tasks that are there: `v <- v + rate (target - v)`.

        Args:
            field: Which.
            tasks: K tasks.
            targets: K rows `[P]`, one at a time.
            rates: `[K]`.
            valid: A truth value, as a tensor: where it is false, everything stays as it is. A step in float16 can
                overflow, and would spoil an average for ever.

        Returns:
            `[K, P]`, the averages now; not to be changed in place.
        """
        values = self.get_buffer(field)
        # A row at a time, as whole matrices in between would cost more memory than the averages.
        for task, target, rate in zip(tasks, targets, rates.to(values.dtype), strict=True):
            row = values[self._where[task]]
            row.copy_(torch.where(valid, torch.lerp(row, target, rate), row))
        return self.read(field, tasks)

    def get_extra_state(self) -> dict[str, Any]:
        """The tasks' names."""
        return {"tasks": list(self.tasks)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take the names back; `_load_from_state_dict` has made room for the numbers."""
        self._where = {task: index for index, task in enumerate(state["tasks"])}

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for field in self._fields:
            loaded = state_dict.get(prefix + field)
            if loaded is not None:
                setattr(self, field, torch.empty_like(loaded, device=self.get_buffer(field).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
