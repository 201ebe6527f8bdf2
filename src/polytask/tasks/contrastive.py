"""Which two versions are of one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.tasks.head import mlp_head
from polytask.tasks.label_free import LabelFreeTask
from polytask.tasks.metrics import RetrievalMetric
from polytask.tasks.task import in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Contrastive(LabelFreeTask):
    """Tells which two changed versions are of one row, among those of the other rows of the batch; needs no labels.

    Of N rows there are 2N versions, whose projections `z` have the length 1. With the temperature `t` and j the other
    version of version i, the loss is the mean over all i of

        -log( exp(z_i · z_j / t) / sum_{k != i} exp(z_i · z_k / t) )

    (NT-Xent; Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020, https://arxiv.org/abs/2002.05709). The projection is a head with one hidden layer,
    which is left behind: the other tasks read what is before it.

    Of images, a version is a random part, mirrored or not, in other colours (as in the paper, without blur and without
    changes of hue). Of tables, a share of the values is replaced by those of other rows of the batch, each column for
    itself (SCARF; Bahri, Jiang, Tay and Metzler, "SCARF: Self-Supervised Contrastive Learning using Random Feature
    Corruption", ICLR 2022, https://arxiv.org/abs/2106.15147; there of other rows of the training data).

    The others of a row are those of its own batch, so large batches make the task harder. With several batches a step,
    or several processes, each batch has its own, and the loss is the mean over all rows. A batch of one row teaches
    nothing. The scores depend on the batch size too: compare those of one size.

    Args:
        input: The input with the images or the table; None: the only one.
        name: The task's name.
        sources: The named sources of `data` whose rows it learns from; None: all.
        weight: Multiplies the loss before the balancer sees it.
        auxiliary: Whether it is learned for the sake of the others alone, so that the mean gain leaves it out.
        metric: The metric that judges the task.
        temperature: t, above 0: the smaller, the more the nearest wrong versions count.
        projection: Number of values of a projection.
        hidden: Widths of the head's hidden layers; None: one as wide as the features.
        share: Of a table, the share of the values that a version has from other rows.
        area: Of an image, the least share of its area that a version shows.
        color: Of an image, how far brightness, contrast and saturation change at most, as a share; above 0, a fifth of
            the colour images become grey.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(RetrievalMetric)
    condenses = True

    def __init__(
        self,
        input: str | None = None,
        *,
        name: str = "contrastive",
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        auxiliary: bool = True,
        metric: RetrievalMetric = "accuracy",
        temperature: float = 0.5,
        projection: int = 128,
        hidden: Sequence[int] | None = None,
        share: float = 0.6,
        area: float = 0.25,
        color: float = 0.4,
    ) -> None:
        super().__init__(name, weight, metric, sources, auxiliary=auxiliary)
        if not temperature > 0:
            raise UserError(f"Task '{name}': temperature is {temperature}, but must be above 0.")
        if projection < 1:
            raise UserError(f"Task '{name}': projection is {projection}, but must be at least 1.")
        _check(name, share, area, color)
        self.input = input
        self.temperature, self.projection = temperature, projection
        self.hidden = None if hidden is None else tuple(hidden)
        self.share, self.area, self.color = share, area, color

    @classmethod
    def view_spec(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """See `LabelFreeTask.view_spec`."""
        given = {"share": 0.6, "area": 0.25, "color": 0.4}
        found: dict[str, float] = {name: parameters.get(name, value) for name, value in given.items()}
        _check(parameters.get("name"), **found)
        return {"kind": "contrast", **found}

    @property
    def outputs(self) -> int:
        """The number of values of a projection."""
        return self.projection

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        hidden = (shape.width,) if self.hidden is None else self.hidden
        return mlp_head(shape.width, hidden, self.outputs, 0.0, task=self.name)

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean of the losses of both versions of each row, `[B]`; `output` is `[B, 2, outputs]`."""
        similar, own = self._similar(output)
        return F.cross_entropy(similar, own, reduction="none").view(2, -1).mean(dim=0)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from torchmetrics import MeanMetric, MetricCollection

        return MetricCollection({"accuracy": MeanMetric()})

    def condensed(self, output: Tensor) -> Tensor:
        """Of each row, the share of its versions that are nearest to the other one; several that are as near share."""
        similar, own = self._similar(output)
        right = similar.gather(1, own.unsqueeze(1))
        nearest = (similar >= right).sum(dim=1)
        best = (similar > right).sum(dim=1) == 0
        return (best / nearest).view(2, -1).mean(dim=0)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(output[mask])

    def baseline(self, rows: int) -> Tensor:
        """All versions are alike: a guess."""
        return torch.zeros(rows, 2, self.outputs)

    def _similar(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The similarities of the 2B versions over the temperature `[2B, 2B]`, and where the other one of each is."""
        rows = len(output)
        z = F.normalize(in_full_precision(output).transpose(0, 1).flatten(0, 1), dim=1)
        similar = z @ z.T / self.temperature
        own = torch.arange(2 * rows, device=output.device)
        return similar.masked_fill(own == own.unsqueeze(1), -torch.inf), (own + rows) % max(2 * rows, 1)


def _check(task: str | None, share: float, area: float, color: float) -> None:
    if not 0 < share < 1:
        raise UserError(f"Task '{task}': share is {share}, but must be above 0 and below 1.")
    if not 0 < area <= 1:
        raise UserError(f"Task '{task}': area is {area}, but must be above 0 and at most 1.")
    if not 0 <= color <= 1:
        raise UserError(f"Task '{task}': color is {color}, but must be between 0 and 1.")
