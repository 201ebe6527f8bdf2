"""One or several numbers, for each row."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.errors import UserError, listing
from polytask.features import FeatureShape
from polytask.labels import TargetSpec, TargetSummary
from polytask.tasks.head import mlp_head
from polytask.tasks.metrics import NumberMetric
from polytask.tasks.target import completed, source_names, target_columns, task_name, weight_column
from polytask.tasks.task import Task, in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

NumberLoss = Literal["mse", "l1", "huber"]


class Regression(Task):
    """One or several numbers.

    The head gives standardised values, `z = (y - mean) / std` with the mean and the standard deviation of the training
    rows, and the loss is the mean over the labelled entries of the error in `z`: it does not depend on the target's
    units. Metrics and predictions are in the user's units.

    Args:
        target: The column to predict, or several; None: the one called as the task is.
        name: The task's name; None: the target's, several joined by `_`.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        loss: `mse`, `e²`; `l1`, `|e|`; `huber`, `e²/2` up to `|e| = delta` and `delta (|e| - delta/2)` beyond.
        delta: Where the Huber loss turns from square to linear, in standard deviations.
        metric: The metric that judges the task.
        hidden: Widths of the head's hidden layers; none: a linear head.
        dropout: Probability of dropping a value before each linear map of the head.
        mean: Mean of each output over the training rows; None: 0, for targets that are standardised already.
        std: Standard deviation of each output over the training rows; None: 1.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(NumberMetric)
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
        loss: NumberLoss = "mse",
        delta: float = 1.0,
        metric: NumberMetric = "mae",
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
        if loss not in get_args(NumberLoss):
            raise UserError(f"Task '{self.name}': there is no loss '{loss}'. Allowed: {listing(get_args(NumberLoss))}.")
        if not delta > 0:
            raise UserError(f"Task '{self.name}': delta is {delta}, but must be above 0.")
        mean, std = mean or [0.0] * len(columns), std or [1.0] * len(columns)
        if not len(mean) == len(std) == len(columns):
            raise UserError(
                f"Task '{self.name}': there are {len(columns)} outputs, but {len(mean)} means and {len(std)} std."
            )
        if not min(std) > 0:
            raise UserError(f"Task '{self.name}': std is {list(std)}, but each must be above 0.")
        self.loss_name, self.delta = loss, delta
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
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        return completed(parameters, summary, mean=map(float, summary.mean), std=map(float, summary.std))

    @property
    def outputs(self) -> int:
        """The number of columns."""
        return len(self.columns)

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        return mlp_head(shape.width, self.hidden, self.outputs, self.dropout, task=self.name)

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries`."""
        return self._errors(output, self._standardised(target))

    @property
    def kin(self) -> Hashable | None:
        """See `Task.kin`; a class derived from this one may compute otherwise."""
        return ("numbers", self.outputs, self.loss_name, self.delta) if type(self) is Regression else None

    def entries_of_kin(self, tasks: Sequence[Task], output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries_of_kin`."""
        kin = cast("Sequence[Regression]", tasks)
        mean, std = torch.stack([task.mean for task in kin]), torch.stack([task.std for task in kin])
        return self._errors(output, (target - mean) / std)

    def _errors(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each entry, from standardised values."""
        output = in_full_precision(output)
        if self.loss_name == "mse":
            return F.mse_loss(output, target, reduction="none")
        if self.loss_name == "l1":
            return F.l1_loss(output, target, reduction="none")
        return F.huber_loss(output, target, reduction="none", delta=self.delta)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.scores import number_metrics

        return number_metrics(self.std)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(in_full_precision(output), self._standardised(target), mask)

    def baseline(self, rows: int) -> Tensor:
        """The mean of the training rows, which is 0 in standardised values."""
        return torch.zeros(rows, self.outputs)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """See `Task.decode`; several outputs are named by their columns."""
        values = (output.detach().cpu().double() * self.std.cpu().double() + self.mean.cpu().double()).numpy()
        if self.outputs == 1:
            return {"": values[:, 0]}
        return {column: values[:, i] for i, column in enumerate(self.columns)}

    def _standardised(self, target: Tensor) -> Tensor:
        return (target - self.mean) / self.std
