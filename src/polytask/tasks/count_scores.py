"""The metrics of counts; imported when first used."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection


class RateScore(Metric):
    """A metric of M expected counts; those without a label do not count.

    All sums are kept in float64 where the device has it.

    Args:
        kind: `poisson_deviance`, `d2` or `mae`.
        outputs: M.
    """

    is_differentiable = False
    full_state_update = False
    count: Tensor
    absolute: Tensor
    deviance: Tensor
    total: Tensor
    entropy: Tensor

    def __init__(self, kind: str, outputs: int) -> None:
        super().__init__()
        self._kind = kind
        self.add_state("count", torch.zeros(outputs, dtype=torch.long), dist_reduce_fx="sum")
        for name in ("absolute", "deviance", "total", "entropy"):
            self.add_state(name, torch.zeros(outputs), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add `[N, M]` expected counts (above 0), counts and the mask of what is labelled."""
        wide = target.dtype if target.device.type == "mps" else torch.float64
        prediction = prediction.to(wide).masked_fill(~mask, 1.0)
        target = target.to(wide).masked_fill(~mask, 1.0)
        deviance = 2 * (torch.xlogy(target, target / prediction) - target + prediction)
        self.count = self.count + mask.sum(dim=0)
        self.absolute = self.absolute + (prediction - target).abs().sum(dim=0)
        self.deviance = self.deviance + deviance.sum(dim=0)
        self.total = self.total + target.masked_fill(~mask, 0.0).sum(dim=0)
        self.entropy = self.entropy + torch.xlogy(target, target).sum(dim=0)

    def compute(self) -> Tensor:
        """The value, NaN where it is not defined."""
        count, absolute, deviance, total, entropy = (
            value.cpu().double() for value in (self.count, self.absolute, self.deviance, self.total, self.entropy)
        )
        known = count > 0
        if self._kind == "mae":
            return (absolute / count)[known].mean()
        if self._kind == "poisson_deviance":
            return (deviance / count)[known].mean()
        of_mean = 2 * (entropy - torch.xlogy(total, total / count))
        # A deviance within the rounding of the sums is that of a constant, which there is nothing to explain in.
        rounding = 1e-6 if self.total.dtype == torch.float32 else 1e-12
        varies = (count >= 2) & (of_mean > rounding * (entropy.abs() + total))
        return (1 - deviance / of_mean)[varies].mean()


def rate_metrics(outputs: int) -> MetricCollection:
    """Metrics of M counts; fed with expected counts, counts and a mask."""
    names = ("poisson_deviance", "d2", "mae")
    return MetricCollection({name: RateScore(name, outputs) for name in names}, compute_groups=[list(names)])
