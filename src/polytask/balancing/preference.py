"""Methods that can favour some of the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.task_values import TaskValues


class PreferenceBalancer(GramianBalancer):
    """A Gramian method with a preference over the tasks.

    Args:
        preference: How much each task counts next to the others, above 0, by task name or in order; null: all alike.

    Attributes:
        method: The method's name, for messages.

    Raises:
        UserError: A preference is not positive.
    """

    method: ClassVar[str]

    def __init__(self, preference: Mapping[str, float] | Sequence[float] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._preference = (
            None if preference is None else TaskValues(self.method, "preference", preference, minimum=0.0, above=True)
        )

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A task has no preference, or a preference no task.
        """
        if self._preference is not None:
            self._preference.prepare(tasks)

    def shares(self, gramian: Tensor) -> Tensor:
        """`[K]`, the preference for the tasks of a step, of sum 1."""
        if self._preference is None:
            return torch.full_like(gramian[0], 1 / len(gramian))
        found = self._preference.read(self.tasks_of(gramian), gramian)
        return found / found.sum()
