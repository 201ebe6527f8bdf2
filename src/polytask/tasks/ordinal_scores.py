"""The metrics of ordered classes; imported when first used."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection


class OrderScore(Metric):
    """A metric of C ordered classes, from how often each was predicted for each.

    Args:
        kind: `mae`, `quadratic_kappa` or `accuracy`.
        classes: C.
    """

    is_differentiable = False
    full_state_update = False
    confusion: Tensor

    def __init__(self, kind: str, classes: int) -> None:
        super().__init__()
        self._kind, self._classes = kind, classes
        self.add_state("confusion", torch.zeros(classes, classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count `[N]` predicted classes against their targets."""
        pairs = torch.bincount(target * self._classes + prediction, minlength=self._classes**2)
        self.confusion = self.confusion + pairs.view(self._classes, self._classes)

    def compute(self) -> Tensor:
        """The value, NaN where it is not defined."""
        counts = self.confusion.cpu().double()
        rows = counts.sum()
        rank = torch.arange(self._classes, dtype=torch.float64)
        off = (rank[:, None] - rank).abs()
        if self._kind == "accuracy":
            return counts.diagonal().sum() / rows
        if self._kind == "mae":
            return (off * counts).sum() / rows
        by_chance = counts.sum(dim=1, keepdim=True) * counts.sum(dim=0, keepdim=True) / rows
        return 1 - (off.square() * counts).sum() / (off.square() * by_chance).sum()


def order_metrics(classes: int) -> MetricCollection:
    """Metrics of C ordered classes; fed with predicted classes and targets."""
    names = ("mae", "quadratic_kappa", "accuracy")
    return MetricCollection({name: OrderScore(name, classes) for name in names}, compute_groups=[list(names)])
