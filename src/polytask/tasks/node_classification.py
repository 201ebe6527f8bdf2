"""One class for each node of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.features import FeatureKind, FeatureShape
from polytask.labels import TargetSpec
from polytask.sequences import BLANK, Sequences
from polytask.tasks.classification import Classification
from polytask.tasks.metrics import ClassMetric
from polytask.tasks.node_head import NodeHead, for_nodes
from polytask.tasks.task import in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class NodeClassification(Classification):
    """One class for each node of a graph.

    The target is a list of classes, in the order of the nodes; a null in it is a node without a label. The loss of a
    batch is `sum_v c(y_v) l_v / sum_v c(y_v)` over the labelled nodes of its rows, `l_v` being the cross-entropy of a
    node and `c` the class weights, all 1 by default. Metrics count nodes, not graphs.

    Args:
        target: The column to predict; None: the one called as the task is.
        name: The task's name; None: the target.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        classes: The classes in order; None: those of the training data.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row's nodes count in the mean loss of training: a number of at least 0;
            an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        class_weights: Weights of the classes in the loss, by name, 1 for those not named; or `balanced`: inverse to
            how many nodes have the class.
        label_smoothing: Share of the target probability that is spread evenly over all classes, in [0, 1).
        metric: The metric that judges the task.
        unseen: What a class that the training data do not have does later: `error`, or `unknown`, an extra class.
        hidden: Widths of the head's hidden layers; none: a linear head.
        dropout: Probability of dropping a value before each linear map of the head.
        counts: Training nodes of each class.

    Raises:
        UserError: A parameter is out of range, or weights name a class that does not exist.
    """

    reads: ClassVar[FeatureKind] = "nodes"
    modalities: ClassVar[tuple[str, ...]] = ("graph",)
    probabilistic = False

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        sources: str | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        class_weights: Literal["balanced"] | Mapping[str, float] | None = None,
        label_smoothing: float = 0.0,
        metric: ClassMetric = "accuracy",
        unseen: Literal["error", "unknown"] = "error",
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        counts: FromData[Sequence[int] | None] = None,
    ) -> None:
        super().__init__(
            target,
            name=name,
            sources=sources,
            classes=classes,
            weight=weight,
            sample_weight=sample_weight,
            auxiliary=auxiliary,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
            metric=metric,
            unseen=unseen,
            hidden=hidden,
            dropout=dropout,
            counts=counts,
        )

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        return replace(super().target_spec(parameters), kind="node_classes")

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        return NodeHead(shape.width, self.hidden, self.outputs, self.dropout, task=self.name)

    def entries(self, output: Any, target: Any) -> Tensor:
        """The sum of the losses of each row's labelled nodes, `[B]`.

        Args:
            output: `Sequences` `[B, L, outputs]`, from the head; one node alone stands for all of its row.
            target: `Sequences` `[B, L]`.
        """
        classes: Tensor = target.values
        losses = F.cross_entropy(
            in_full_precision(for_nodes(output.values, classes.shape[1])).flatten(0, 1),
            classes.flatten(),
            weight=self.class_weights,
            ignore_index=BLANK,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return losses.view(classes.shape).sum(dim=1)

    def importance(self, target: Any) -> Tensor:
        """What the labelled nodes of each row count together, `[B]`; see `Task.importance`."""
        classes: Tensor = target.values
        known = classes >= 0
        if self.class_weights is None:
            return known.sum(dim=1)
        return self.class_weights[classes.clamp(min=0)].masked_fill(~known, 0.0).sum(dim=1)

    def update_metrics(self, metrics: MetricCollection, output: Any, target: Any, mask: Tensor) -> None:
        """See `Task.update_metrics`: each labelled node is given as a row."""
        classes: Tensor = target.values
        known = (classes >= 0) & mask.unsqueeze(1)
        scores = for_nodes(output.values, classes.shape[1])[known]
        metrics.update(in_full_precision(scores).softmax(dim=1), classes[known])

    def baseline(self, rows: int) -> Any:
        """Logarithms of the classes' frequencies in the training nodes, for one node that stands for all of its row."""
        values = super().baseline(rows).unsqueeze(1)
        return Sequences(values, values.new_ones(rows).long())

    def decode(self, output: Any) -> dict[str, Any]:
        """A list of classes for each row, one for each node; see `Task.decode`."""
        found = output.values.argmax(dim=2).tolist()
        return {
            "": [
                [self.classes[each] for each in row[:nodes]]
                for row, nodes in zip(found, output.lengths.tolist(), strict=True)
            ]
        }
