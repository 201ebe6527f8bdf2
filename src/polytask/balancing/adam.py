"""Adam on numbers for each task, for methods that learn their own weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.balancing.per_task import PerTask


class TaskAdam(PerTask):
    """A number for each task, moved by Adam (Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015).

    Each task has its own count of steps, so one that is absent for a while is as it was when it comes back. This is
    what `torch.optim.Adam` does with a parameter for each task, in a few operations for all tasks, and with its whole
    state in the state dictionary.

    Args:
        initial: The value for a new task.
        lr: Learning rate.
        weight_decay: This times the number is added to its gradient.
    """

    def __init__(self, initial: float, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__({"value": initial, "mean": 0.0, "square": 0.0, "steps": 0.0})
        self.lr = lr
        self.weight_decay = weight_decay

    @torch.no_grad()
    def step(self, tasks: Sequence[str], gradient: Tensor, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        """Move the numbers of `tasks` against `gradient` `[K]`; entries that are not finite count as 0."""
        value, mean, square, steps = (
            self.read(field, tasks, gradient.device) for field in ("value", "mean", "square", "steps")
        )
        gradient = gradient.to(value.dtype).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        if self.weight_decay:
            gradient = gradient + self.weight_decay * value
        steps = steps + 1
        mean = torch.lerp(mean, gradient, 1 - betas[0])
        square = torch.lerp(square, gradient.square(), 1 - betas[1])
        size = (square / (1 - betas[1] ** steps)).sqrt() + 1e-8
        value = value - self.lr * mean / (1 - betas[0] ** steps) / size
        for field, updated in (("value", value), ("mean", mean), ("square", square), ("steps", steps)):
            self.write(field, tasks, updated)
