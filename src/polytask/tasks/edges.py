"""Where the classes of a mask meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.components import FromData
from polytask.errors import UserError
from polytask.labels import TargetSpec, TargetSummary
from polytask.pixels import PixelValues
from polytask.tasks.dense_head import DenseDecoder
from polytask.tasks.dense_task import DenseTask, pixel_spec
from polytask.tasks.metrics import EdgeMetric
from polytask.tasks.target import completed
from polytask.tasks.task import in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Edges(DenseTask):
    """The edges between the classes of a mask, made from the masks themselves: an auxiliary task without own labels.

    A pixel is one of an edge if a pixel of another class lies at most `edge` pixels to its left, right, above or below
    it, in the image as the encoder reads it. Pixels that the mask leaves out are no edges, and make none.

    The head gives log-odds; the loss of a step is the weighted mean of the binary cross-entropy over its labelled
    pixels, where edges count `balance` times as much as if both kinds of pixels were to count the same in all.

    Args:
        target: The column of masks; None: the one called as the task is.
        name: The task's name; None: the target.
        image: The input of images that the masks lie on, or its column; None: the only one.
        ignore: Numbers in the masks that stand for no class.
        edge: How wide an edge is on either side, in pixels.
        on_error: What a mask that cannot be read is: `error`, or `skip`: the row is unlabelled, which is logged.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        balance: How much the edges of the training part count together beside all other pixels: 1 for as much; None:
            every pixel counts the same.
        head: The decoder: `fpn`, `unet` or `deeplab`.
        width: Channels of the decoder.
        stride: The finest map that the decoder reads, in pixels between its positions; None: 4 for `fpn` and `deeplab`,
            and for `unet` the finest that the encoder has.
        dropout: Probability of dropping a channel before the last linear map.
        metric: The metric that judges the task.
        counts: Training pixels that are none, and that are edges.
        image_size: Height and width of the images as the encoder reads them.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(EdgeMetric)
    edge_weight: Tensor

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        image: str | None = None,
        ignore: Sequence[int] = (),
        edge: int = 1,
        on_error: Literal["error", "skip"] = "error",
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        balance: float | None = 1.0,
        head: DenseDecoder = "fpn",
        width: int = 64,
        stride: int | None = None,
        dropout: float = 0.0,
        metric: EdgeMetric = "best_f_score",
        counts: FromData[Sequence[int] | None] = None,
        image_size: FromData[Sequence[int] | None] = None,
    ) -> None:
        super().__init__(
            name,
            target,
            (head, width, stride, dropout),
            image_size,
            weight=weight,
            metric=metric,
            sources=sources,
            sample_weight=sample_weight,
            auxiliary=auxiliary,
        )
        if edge < 1:
            raise UserError(f"Task '{self.name}': edge is {edge}, but must be at least 1 pixel.")
        if balance is not None and not (math.isfinite(balance) and balance > 0):
            raise UserError(f"Task '{self.name}': balance is {balance}, but must be above 0, or null.")
        self.image, self.ignore, self.edge, self.on_error = image, tuple(ignore), edge, on_error
        self.balance = balance
        self.counts = None if counts is None else (int(counts[0]), int(counts[1]))
        factor = 1.0
        if balance is not None and self.counts is not None:
            factor = balance * max(self.counts[0], 1) / max(self.counts[1], 1)
        self.register_buffer("edge_weight", torch.tensor(factor))

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        ignore = tuple(parameters.get("ignore") or ())
        return pixel_spec("edges", parameters, ignore=ignore, edge=int(parameters.get("edge", 1)))

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        size = map(int, summary.image_size)
        return completed(parameters, summary, counts=map(int, summary.counts), image_size=size)

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    def pixel_losses(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """See `DenseTask.pixel_losses`."""
        losses = F.binary_cross_entropy_with_logits(output[:, 0], target.to(output), reduction="none")
        return losses * self.importance(target)

    def importance(self, target: Tensor) -> Tensor:
        """What a pixel counts; see `Task.importance`."""
        return torch.where(target > 0, self.edge_weight, torch.ones_like(self.edge_weight))

    def prediction(self, output: Tensor) -> Tensor:
        """Probabilities of edges; see `Task.prediction`."""
        return in_full_precision(output).sigmoid()

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.pixel_scores import edge_metrics

        return edge_metrics()

    def condensed(self, output: Tensor) -> Tensor:
        """Probabilities; see `Task.condensed`."""
        return self.prediction(output)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(output[:, 0].expand(target.shape)[mask], target[mask])

    def baseline(self, rows: int) -> Tensor:
        """The log-odds of an edge among the training pixels, weighted as in the loss."""
        if self.counts is None:
            raise UserError(f"Task '{self.name}' has no baseline without counts, the training pixels of each kind.")
        inside, edge = (max(count, 0.5) for count in self.counts)
        odds = edge / inside * float(self.edge_weight)
        return self.everywhere(torch.tensor([math.log(odds)]), rows)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """A map of probabilities for each row; see `Task.decode`."""
        return {
            "": [PixelValues(each.astype(np.float32)) for each in self.condensed(output.detach())[:, 0].cpu().numpy()]
        }
