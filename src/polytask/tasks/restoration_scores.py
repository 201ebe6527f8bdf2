"""The metrics of what is restored; imported when first used."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOf(Metric):
    """The mean of the values of one name, NaN where there are none.

    Args:
        name: The keyword that `update` is given its values by.
    """

    is_differentiable = False
    full_state_update = True
    total: Tensor
    count: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, **values: Tensor) -> None:
        """Add values, of any shape, by name."""
        own = values[self._name]
        self.total = self.total + (own.float() if own.device.type == "mps" else own.double()).sum()
        self.count = self.count + own.numel()

    def compute(self) -> Tensor:
        """The mean."""
        return self.total.cpu().double() / self.count.cpu()
