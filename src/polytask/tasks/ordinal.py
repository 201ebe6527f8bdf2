"""One class out of several that are in an order, for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.errors import UserError, listing
from polytask.features import FeatureShape
from polytask.labels import TargetSpec, TargetSummary
from polytask.tasks.head import mlp_head
from polytask.tasks.metrics import OrderMetric
from polytask.tasks.target import class_names, completed, one_column, source_names, task_name, weight_column
from polytask.tasks.task import Task, in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

OrdinalLoss = Literal["cumulative", "coral"]

_LEAST_GAP = 1e-6
"""Two thresholds count as so far apart at least: a class of no width would have an infinite loss."""


class Ordinal(Task):
    """One class out of two or more in an order, such as grades: a score and thresholds.

    The head gives one score f and has the thresholds `θ_0 < θ_1 < ...`, in this order by construction; an output is
    `z_k = f - θ_k`, the log-odds of a class above k (counted from 0), so that `P(y > 0) >= P(y > 1) >= ...` in every
    row. The predicted class is the median: as many classes up as have `P(y > k) > 1/2`.

    `cumulative`: minus the log-likelihood of the proportional odds model, `P(y = k) = σ(z_(k-1)) - σ(z_k)` (McCullagh,
    "Regression Models for Ordinal Data", 1980). `coral`: the mean over the thresholds of the binary cross-entropies of
    `y > k` (Cao, Mirjalili and Raschka, "Rank consistent ordinal regression for neural networks", 2020).

    Args:
        target: The column to predict; None: the one called as the task is.
        name: The task's name; None: the target.
        classes: The classes from the lowest to the highest, or their number C for classes that are called `0` to
            `C - 1`; None: those of the training data, where they are numbers.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        loss: `cumulative` or `coral`, see above.
        metric: The metric that judges the task.
        hidden: Widths of the head's hidden layers; none: a linear score.
        dropout: Probability of dropping a value before each linear map of the head.
        counts: Training rows of each class.

    Raises:
        UserError: A parameter is out of range, or the classes have no order.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(OrderMetric)
    probabilistic = True

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        sources: str | Sequence[str] | None = None,
        classes: int | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        loss: OrdinalLoss = "cumulative",
        metric: OrderMetric = "mae",
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        counts: FromData[Sequence[int] | None] = None,
    ) -> None:
        columns = one_column(target, name)
        super().__init__(
            task_name(name, columns),
            columns,
            weight,
            metric,
            sources,
            sample_weight=sample_weight,
            auxiliary=auxiliary,
        )
        names = class_names(classes, self.name)
        if names is None:
            raise UserError(f"Task '{self.name}': without data, classes has to be given, the lowest first.")
        if len(names) < 2:
            raise UserError(
                f"Task '{self.name}' has only one class, {listing(names)}: there is nothing to tell apart. Two or more "
                "are needed."
            )
        if loss not in get_args(OrdinalLoss):
            raise UserError(
                f"Task '{self.name}': there is no loss '{loss}'. Allowed: {listing(get_args(OrdinalLoss))}."
            )
        if counts is not None and len(counts) != len(names):
            raise UserError(f"Task '{self.name}': there are {len(names)} classes, but {len(counts)} counts.")
        self.classes = names
        self.counts = None if counts is None else tuple(counts)
        self.loss_name = loss
        self.hidden, self.dropout = tuple(hidden), dropout

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        columns = one_column(parameters.get("target"), parameters.get("name"))
        return TargetSpec(
            kind="category",
            columns=columns,
            classes=class_names(parameters.get("classes"), task_name(parameters.get("name"), columns)),
            sources=source_names(parameters.get("sources"), parameters.get("name")),
            sample_weight=weight_column(parameters.get("sample_weight"), columns, parameters.get("name")),
            ordered=True,
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        if parameters.get("classes") is None and not all(map(_is_number, summary.classes)):
            raise UserError(
                f"Task '{parameters.get('name') or parameters.get('target')}': its classes are not numbers, so their "
                f"order is not known. Name them with classes, from the lowest to the highest: "
                f"{listing(summary.classes)}."
            )
        return completed(parameters, summary, classes=summary.classes, counts=map(int, summary.counts))

    @property
    def outputs(self) -> int:
        """The number of thresholds: one less than classes."""
        return len(self.classes) - 1

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`; the thresholds start where the training rows' shares have them."""
        score = mlp_head(shape.width, self.hidden, 1, self.dropout, task=self.name)
        counts = [1] * len(self.classes) if self.counts is None else self.counts
        return nn.Sequential(score, OrderedThresholds(-_log_odds(counts)))

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries`."""
        if self.loss_name == "cumulative":
            return -self._log_probabilities(output).gather(1, target.unsqueeze(1)).squeeze(1)
        above = target.unsqueeze(1) > torch.arange(self.outputs, device=target.device)
        output = in_full_precision(output)
        return F.binary_cross_entropy_with_logits(output, above.to(output.dtype), reduction="none").mean(dim=1)

    def _log_probabilities(self, output: Tensor) -> Tensor:
        """`[B, C]`: `log (σ(z_(k-1)) - σ(z_k))` for each class k, without a difference of small numbers."""
        z = in_full_precision(output)
        gaps = (z[:, 1:] - z[:, :-1]).clamp(max=-_LEAST_GAP)
        inner = F.logsigmoid(z[:, :-1]) + F.logsigmoid(-z[:, 1:]) + (-torch.expm1(gaps)).log()
        return torch.cat([F.logsigmoid(-z[:, :1]), inner, F.logsigmoid(z[:, -1:])], dim=1)

    def prediction(self, output: Tensor) -> Tensor:
        """Probabilities of more than each class but the highest; see `Task.prediction`."""
        return in_full_precision(output).sigmoid()

    def confident(self, output: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """The likeliest class of each row, and whether its probability is large enough; see `Task.confident`."""
        probabilities, classes = self._log_probabilities(output).exp().max(dim=1)
        return classes, probabilities >= threshold

    def difference(self, output: Tensor, reference: Tensor) -> Tensor:
        """The mean over the thresholds of the squared differences of probabilities; see `Task.difference`."""
        return super().difference(output, reference).mean(dim=1)

    def divergence(self, output: Tensor, reference: Tensor) -> Tensor:
        """See `Task.divergence`."""
        own, truth = self._log_probabilities(output), self._log_probabilities(reference)
        return F.kl_div(own, truth, reduction="none", log_target=True).sum(dim=1)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.ordinal_scores import order_metrics

        return order_metrics(len(self.classes))

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(_medians(output[mask]), target[mask])

    def baseline(self, rows: int) -> Tensor:
        """The log-odds of the training rows' shares; half a row for a class without any."""
        if self.counts is None:
            raise UserError(f"Task '{self.name}' has no baseline without counts, the training rows of each class.")
        return _log_odds(self.counts).float().expand(rows, -1)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """See `Task.decode`."""
        output = output.detach()
        probabilities = self._log_probabilities(output).exp().cpu().numpy()
        named = np.array(self.classes, dtype=object)[_medians(output).cpu().numpy()]
        return {"": named, **{f"p_{c}": probabilities[:, i] for i, c in enumerate(self.classes)}}


_LEAST_GAP = 1e-6
"""Between two thresholds at the start: from none at all, no step would ever part them."""


class OrderedThresholds(nn.Module):
    """A score `[B, 1]` to what it is above each threshold, `[B, T]`; the thresholds are learned and stay in order.

    Args:
        start: `[T]`: the thresholds to begin with, each above the one before.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.first = nn.Parameter(start[:1].float())
        gaps = start.double().diff().clamp(min=_LEAST_GAP)
        self.gaps = nn.Parameter((gaps + (-torch.expm1(-gaps)).log()).float())  # the inverse of softplus

    def forward(self, score: Tensor) -> Tensor:
        """`[B, 1]` to `[B, T]`, in full precision: the order of close thresholds must not be lost."""
        thresholds = torch.cat([self.first, self.first + F.softplus(self.gaps).cumsum(dim=0)])
        return in_full_precision(score) - in_full_precision(thresholds)


def _log_odds(counts: Sequence[int]) -> Tensor:
    """`[C - 1]`: the log-odds of a class above k, for each class but the highest, in rows of these counts."""
    rows = torch.tensor(counts, dtype=torch.float64).clamp(min=0.5)
    up_to = rows.cumsum(dim=0)[:-1]
    return (rows.sum() - up_to).log() - up_to.log()


def _medians(output: Tensor) -> Tensor:
    """int64 `[B]`: the class that no more than half of the probability is above."""
    return (output > 0).sum(dim=1)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
