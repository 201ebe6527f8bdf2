"""One number for each node of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from polytask.components import FromData
from polytask.features import FeatureKind, FeatureShape
from polytask.labels import TargetSpec
from polytask.sequences import Sequences
from polytask.tasks.metrics import NumberMetric
from polytask.tasks.node_head import NodeHead, for_nodes
from polytask.tasks.regression import NumberLoss, Regression
from polytask.tasks.target import one_column
from polytask.tasks.task import in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class NodeRegression(Regression):
    """One number for each node of a graph.

    The target is a list of numbers, in the order of the nodes; a null in it is a node without one. They are learned
    standardised, with the mean and the standard deviation of the training part. The loss of a batch is the mean over
    the labelled nodes of its rows. Metrics count nodes, not graphs.

    Args:
        target: The column to predict; None: the one called as the task is.
        name: The task's name; None: the target.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row's nodes count in the mean loss of training: a number of at least 0;
            an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        loss: Mean squared error, mean absolute error (`l1`), or Huber's, which is squared up to `delta`, in standard
            deviations.
        delta: See `loss`.
        metric: The metric that judges the task.
        hidden: Widths of the head's hidden layers; none: a linear head.
        dropout: Probability of dropping a value before each linear map of the head.
        mean: Mean over the training nodes.
        std: Standard deviation over the training nodes.

    Raises:
        UserError: A parameter is out of range.
    """

    lists_of: ClassVar[type[str] | type[float]] = float
    reads: ClassVar[FeatureKind] = "nodes"
    modalities: ClassVar[tuple[str, ...]] = ("graph",)

    def __init__(
        self,
        target: str | None = None,
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
        super().__init__(
            one_column(target, name),
            name=name,
            sources=sources,
            weight=weight,
            sample_weight=sample_weight,
            auxiliary=auxiliary,
            loss=loss,
            delta=delta,
            metric=metric,
            hidden=hidden,
            dropout=dropout,
            mean=mean,
            std=std,
        )

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        return replace(super().target_spec(parameters), kind="node_numbers")

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        return NodeHead(shape.width, self.hidden, 1, self.dropout, task=self.name)

    def entries(self, output: Any, target: Any) -> Tensor:
        """The sum of the losses of each row's labelled nodes, `[B]`.

        Args:
            output: `Sequences` `[B, L, 1]`, from the head; one node alone stands for all of its row.
            target: `Sequences` `[B, L]`, in the user's units.
        """
        found, wanted, known = self._compared(output, target)
        return self._errors(found, wanted).masked_fill(~known, 0.0).sum(dim=1)

    def importance(self, target: Any) -> Tensor:
        """How many labelled nodes each row has, `[B]`; see `Task.importance`."""
        return _known(target).sum(dim=1)

    def update_metrics(self, metrics: MetricCollection, output: Any, target: Any, mask: Tensor) -> None:
        """See `Task.update_metrics`: each labelled node is given as a row."""
        found, wanted, known = self._compared(output, target)
        known = known & mask.unsqueeze(1)
        pairs = in_full_precision(found)[known].unsqueeze(1), wanted[known].unsqueeze(1)
        metrics.update(*pairs, torch.ones_like(pairs[1], dtype=torch.bool))

    def baseline(self, rows: int) -> Any:
        """The mean of the training nodes, for one node that stands for all of its row."""
        return Sequences(torch.zeros(rows, 1, 1), torch.ones(rows, dtype=torch.int64))

    def decode(self, output: Any) -> dict[str, Any]:
        """A list of numbers for each row, one for each node; see `Task.decode`."""
        values = (output.values[:, :, 0].detach().cpu().double() * float(self.std) + float(self.mean)).tolist()
        return {"": [row[:nodes] for row, nodes in zip(values, output.lengths.tolist(), strict=True)]}

    def _compared(self, output: Any, target: Any) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, L]`: outputs, standardised targets, and where these are known; 0 elsewhere."""
        known = _known(target)
        values: Tensor = target.values
        found = for_nodes(output.values, values.shape[1]).squeeze(2)
        return found, self._standardised(values).where(known, 0.0), known


def _known(target: Any) -> Tensor:
    """Where a number is known, bool `[B, L]`."""
    known: Tensor = target.mask & ~target.values.isnan()
    return known
