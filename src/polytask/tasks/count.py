"""How often something happens, for each row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from polytask.components import FromData
from polytask.errors import UserError, listing
from polytask.features import FeatureShape
from polytask.labels import TargetSpec, TargetSummary
from polytask.tasks.head import mlp_head
from polytask.tasks.metrics import RateMetric
from polytask.tasks.target import completed, source_names, target_columns, task_name, weight_column
from polytask.tasks.task import Task, in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

Distribution = Literal["poisson", "negative_binomial"]

_GREATEST = 15.0
"""Outputs count up to here, either way: a rate between e^-15 and e^15 times the mean."""

_LEAST_DISPERSION, _GREATEST_DISPERSION = 1e-4, 1e4


class Count(Task):
    """One or several counts, or other numbers of at least 0: Poisson regression with the logarithmic link.

    The head gives `o`, the expected count is `p = m exp(o)` with the mean m of the training rows (McCullagh and Nelder,
    "Generalized Linear Models", 1989). With the Poisson distribution the loss of an entry is its deviance, divided by
    the dispersion of the training rows, `φ = s² / m` with their variance s²:

        l = 2 (y log(y / p) - y + p) / φ

    Its minimum is that of the Poisson likelihood, it is 0 for `p = y`, about 1 for the mean, and the same whether the
    target counts pieces or dozens. With `negative_binomial`, whose variance is `p + α p²`, it is minus the
    log-likelihood in nats, and the head gives log α, from the training rows' own on, as well (NB2; Cameron and Trivedi,
    "Regression Analysis of Count Data", 1998): for counts that vary more than a Poisson distribution allows, row by
    row.

    Args:
        target: The column to predict, or several; None: the one called as the task is. Values are at least 0.
        name: The task's name; None: the target's, several joined by `_`.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        distribution: `poisson` or `negative_binomial`.
        metric: The metric that judges the task.
        hidden: Widths of the head's hidden layers; none: a linear head.
        dropout: Probability of dropping a value before each linear map of the head.
        mean: Mean of each target over the training rows; None: 1.
        std: Standard deviation of each target over the training rows; None: that of a Poisson distribution.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(RateMetric)
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        target: str | Sequence[str] | None = None,
        *,
        name: str | None = None,
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        distribution: Distribution = "poisson",
        metric: RateMetric = "poisson_deviance",
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        mean: FromData[Sequence[float] | None] = None,
        std: FromData[Sequence[float] | None] = None,
    ) -> None:
        columns = target_columns(target, name)
        super().__init__(
            task_name(name, columns),
            columns,
            weight,
            metric,
            sources,
            sample_weight=sample_weight,
            auxiliary=auxiliary,
        )
        if distribution not in get_args(Distribution):
            raise UserError(
                f"Task '{self.name}': there is no distribution '{distribution}'. Allowed: "
                f"{listing(get_args(Distribution))}."
            )
        mean = mean or [1.0] * len(columns)
        if not min(mean) > 0:
            raise UserError(
                f"Task '{self.name}': the mean of the training rows is {list(mean)}, but each must be above 0: where "
                "nothing was ever counted, there is nothing to learn."
            )
        std = std or [math.sqrt(value) for value in mean]
        if not len(mean) == len(std) == len(columns):
            raise UserError(
                f"Task '{self.name}': there are {len(columns)} targets, but {len(mean)} means and {len(std)} std."
            )
        if not min(std) > 0:
            raise UserError(f"Task '{self.name}': std is {list(std)}, but each must be above 0.")
        self.distribution = distribution
        self.hidden, self.dropout = tuple(hidden), dropout
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        columns = target_columns(parameters.get("target"), parameters.get("name"))
        return TargetSpec(
            kind="numbers",
            columns=columns,
            sources=source_names(parameters.get("sources"), parameters.get("name")),
            sample_weight=weight_column(parameters.get("sample_weight"), columns, parameters.get("name")),
            least=0.0,
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        return completed(parameters, summary, mean=map(float, summary.mean), std=map(float, summary.std))

    @property
    def outputs(self) -> int:
        """The logarithms of the rates, and behind them those of the dispersions where the distribution has any."""
        return len(self.columns) * (1 if self.distribution == "poisson" else 2)

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        return mlp_head(shape.width, self.hidden, self.outputs, self.dropout, task=self.name)

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries`."""
        rates = self._log_rates(output)
        if self.distribution == "negative_binomial":
            return self._negative_binomial(rates, self._log_dispersions(output), target)
        share = target / self.mean
        deviance = torch.xlogy(share, share) - share * rates - share + rates.exp()
        return 2 * (self.mean / self.std).square() * deviance

    def _negative_binomial(self, rates: Tensor, log_dispersions: Tensor, target: Tensor) -> Tensor:
        # Differences of large logarithms of gamma functions: float64, which Apple's GPUs do not have.
        wide = rates.dtype if rates.device.type == "mps" else torch.float64
        mean, shape, count = rates.to(wide).exp() * self.mean, (-log_dispersions.to(wide)).exp(), target.to(wide)
        total = (shape + mean).log()
        likelihood = (
            torch.lgamma(count + shape)
            - torch.lgamma(shape)
            - torch.lgamma(count + 1)
            + shape * (shape.log() - total)
            + count * (mean.log() - total)
        )
        return -likelihood.to(rates.dtype)

    def _log_dispersions(self, output: Tensor) -> Tensor:
        """`[B, M]`: log α, from that of the training rows on."""
        mean, std = self.mean, self.std
        start = ((std.square() - mean) / mean.square()).clamp(min=0.01, max=_GREATEST_DISPERSION).log()
        free = in_full_precision(output)[:, len(self.columns) :] + start
        return _bounded(free, math.log(_LEAST_DISPERSION), math.log(_GREATEST_DISPERSION))

    def _log_rates(self, output: Tensor) -> Tensor:
        """`[B, M]`: log (p / m)."""
        return _bounded(in_full_precision(output)[:, : len(self.columns)], -_GREATEST, _GREATEST)

    def difference(self, output: Tensor, reference: Tensor) -> Tensor:
        """The squared difference of the logarithms of the rates; see `Task.difference`."""
        return (self._log_rates(output) - self._log_rates(reference)).square()

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.count_scores import rate_metrics

        return rate_metrics(len(self.columns))

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(self._log_rates(output).exp() * self.mean, target, mask)

    def baseline(self, rows: int) -> Tensor:
        """The mean of the training rows, and their dispersion, which are 0 in logarithms relative to them."""
        return torch.zeros(rows, self.outputs)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """The expected counts; several are named by their columns; see `Task.decode`."""
        rates = (self._log_rates(output.detach()).cpu().double().exp() * self.mean.cpu().double()).numpy()
        names = [""] if len(self.columns) == 1 else list(self.columns)
        columns = {name: rates[:, i] for i, name in enumerate(names)}
        if self.distribution == "negative_binomial":
            dispersions = self._log_dispersions(output.detach()).cpu().double().exp().numpy()
            columns |= {f"{name}_dispersion".lstrip("_"): dispersions[:, i] for i, name in enumerate(names)}
        return columns


def _bounded(values: Tensor, low: float, high: float) -> Tensor:
    """Values within limits, with the gradient that they have without: what is beyond can come back."""
    return values + (values.clamp(low, high) - values).detach()
