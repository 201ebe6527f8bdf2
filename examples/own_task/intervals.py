"""A task of our own: a number and the interval that it lies in with a given probability."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from polytask.components import FromData
from polytask.tasks import Regression


class Interval(Regression):
    """Three quantiles of a number, by the pinball loss (Koenker and Bassett, "Regression Quantiles", 1978).

    The loss of the quantile q is `max(q e, (q - 1) e)`, with e the standardised error.

    Args:
        target: The column to predict; None: the one called as the task is.
        name: The task's name.
        weight: Multiplies the loss before the balancer sees it.
        coverage: The share of the rows whose number is to lie in the interval.
        mean: Mean over the training rows.
        std: Standard deviation over the training rows.
    """

    quantiles: Tensor

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        weight: float = 1.0,
        coverage: float = 0.8,
        mean: FromData[list[float] | None] = None,
        std: FromData[list[float] | None] = None,
    ) -> None:
        super().__init__(target, name=name, weight=weight, mean=mean, std=std)
        self.register_buffer("quantiles", torch.tensor([(1 - coverage) / 2, 0.5, (1 + coverage) / 2]))

    @property
    def outputs(self) -> int:
        """Low, middle and high."""
        return 3

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean pinball loss of the three, `[B, 1]` as the target."""
        error = (target - self.mean) / self.std - output
        return torch.maximum(self.quantiles * error, (self.quantiles - 1) * error).mean(dim=1, keepdim=True)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """The metrics of regression see the middle."""
        super().update_metrics(metrics, output[:, 1:2], target, mask)

    def baseline(self, rows: int) -> Tensor:
        """The quantiles of a normal distribution with the mean and the standard deviation of the training rows."""
        return torch.special.ndtri(self.quantiles).expand(rows, -1)

    def decode(self, output: Tensor) -> Mapping[str, Any]:
        """The columns `NAME`, `NAME_low` and `NAME_high` of a prediction table."""
        low, middle, high = (output * self.std + self.mean).sort(dim=1).values.T.numpy()
        return {"": middle, "low": low, "high": high}
