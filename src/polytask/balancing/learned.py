"""Numbers that a method learns for each task, by its own optimiser or by the user's."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.balancing.adam import TaskAdam
from polytask.balancing.per_task import TaskParameters

logger = logging.getLogger("polytask")


def read_learned(numbers: TaskParameters | TaskAdam, tasks: Sequence[str], device: torch.device, what: str) -> Tensor:
    """`[K]`, the numbers of some tasks, on `device`; made now where they are not there yet.

    Args:
        numbers: The numbers.
        tasks: The tasks.
        device: Where they are needed.
        what: The method and what the numbers are, for a warning: `"uncertainty: the log-variances"`.
    """
    if isinstance(numbers, TaskAdam):
        return numbers.read("value", tasks, device)
    new = numbers.add(tasks, device)
    if new:
        logger.warning(
            "%s of %s are made only now. Unless your optimiser is given balancer.parameters() after this step, they "
            "will not be learned: call prepare(task_names) before you build it, or set lr.",
            what,
            ", ".join(new),
        )
    return numbers.read(tasks, device)
