"""Weights of sum 1 that a method keeps from step to step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.balancing.per_task import PerTask


class SimplexWeights(PerTask):
    """A weight for each task, at least 0, with the sum 1 over the tasks of a step; equal ones at the start.

    The tasks of a step divide the sum of their shares among themselves, so that those of the other tasks stay right. A
    new task comes with the mean share.
    """

    def __init__(self) -> None:
        super().__init__({"share": 1.0})

    def weights(self, tasks: Sequence[str]) -> Tensor:
        """`[K]`, float64 on the CPU."""
        shares = self.read("share", tasks, torch.device("cpu")).double()
        total = shares.sum()
        return torch.where(total > 0, shares / total, 1 / len(shares))

    def replace(self, tasks: Sequence[str], weights: Tensor) -> None:
        """Keep `[K]` new weights of sum 1."""
        shares = self.read("share", tasks, torch.device("cpu"))
        total = shares.sum()
        self.write("share", tasks, (weights * total.where(total > 0, float(len(shares)))).to(shares.dtype))
