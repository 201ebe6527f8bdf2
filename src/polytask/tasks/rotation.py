"""How far an image was turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.features import FeatureShape
from polytask.tasks.head import mlp_head
from polytask.tasks.label_free import LabelFreeTask
from polytask.tasks.metrics import ClassMetric
from polytask.tasks.task import in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_QUARTERS = 4


class Rotation(LabelFreeTask):
    """Tells whether by 0, 90, 180 or 270 degrees an image was turned; needs no labels, but square images.

    Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018,
    https://arxiv.org/abs/1803.07728: to tell how an image was turned, a network has to know what is in it. The loss is
    the mean cross-entropy over the four classes. The paper shows each image in all four turns in each batch; here it is
    one each time, drawn anew in each epoch, at a quarter of the cost.

    Args:
        input: The input with the images; None: the only one.
        name: The task's name.
        sources: The named sources of `data` whose rows it learns from; None: all.
        weight: Multiplies the loss before the balancer sees it.
        auxiliary: Whether it is learned for the sake of the others alone, so that the mean gain leaves it out.
        metric: The metric that judges the task.
        hidden: Widths of the head's hidden layers; none: a linear head.
        dropout: Probability of dropping a value before each linear map of the head.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(ClassMetric)

    def __init__(
        self,
        input: str | None = None,
        *,
        name: str = "rotation",
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        auxiliary: bool = True,
        metric: ClassMetric = "accuracy",
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(name, weight, metric, sources, auxiliary=auxiliary)
        self.input = input
        self.hidden, self.dropout = tuple(hidden), dropout

    @classmethod
    def view_spec(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG003 (nothing can be set)
        """See `LabelFreeTask.view_spec`."""
        return {"kind": "rotation"}

    @property
    def outputs(self) -> int:
        """The number of turns."""
        return _QUARTERS

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        return mlp_head(shape.width, self.hidden, self.outputs, self.dropout, task=self.name)

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries`."""
        return F.cross_entropy(in_full_precision(output), target, reduction="none")

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.scores import class_metrics

        return class_metrics(self.outputs, labels=False)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(in_full_precision(output[mask]).softmax(dim=1), target[mask])

    def baseline(self, rows: int) -> Tensor:
        """All turns are as likely."""
        return torch.zeros(rows, self.outputs)
