"""Finding objects: boxes on images, each with a class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from polytask.boxes import Boxes
from polytask.components import FromData
from polytask.errors import UserError, closest, listing
from polytask.features import FeatureKind, FeatureShape
from polytask.labels import TargetSpec, TargetSummary
from polytask.row_values import RowValues
from polytask.tasks.detector import Detector, DetectorOutput, DetectorSettings
from polytask.tasks.faster_rcnn import FasterRCNN
from polytask.tasks.metrics import BoxMetric
from polytask.tasks.retinanet import RetinaNet
from polytask.tasks.target import class_names, completed, one_column, source_names, task_name, weight_column
from polytask.tasks.task import Task

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

Detections = list[dict[str, Tensor]]

_HEADS: Mapping[str, type[Detector]] = {"faster_rcnn": FasterRCNN, "retinanet": RetinaNet}


class Detection(Task):
    """Boxes around objects of one or more classes, in images.

    The head reads the maps of an image encoder, of the strides 4 (`retinanet`: 8) and coarser, as a feature pyramid.
    Its loss is the sum of its parts, each a mean over the samples of an image, and that of a batch the mean over the
    images that have an annotation, with or without objects.

    Args:
        target: The column with the boxes: paths of Pascal VOC files, lists of records {xmin, ymin, xmax, ymax, class}
            in pixels of the image file, or such lists as JSON text; None: the one called as the task is.
        name: The task's name; None: the target.
        image_column: The column with the images that the boxes lie on; an image input reads it.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        classes: The classes in order, or their number C for classes that are called `0` to `C - 1`; None: those of
            the training data.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        head: `faster_rcnn`: regions are proposed, and each is looked at again; `retinanet`: in one stage.
        width: The number of channels of the pyramid.
        hidden: Units of the two layers that look at a region (`faster_rcnn`).
        regions: How many regions of a training image are looked at (`faster_rcnn`), a quarter of them with an object at
            most; fewer take less time.
        anchors: `auto`: from the sizes of the training boxes; or the square roots of the anchors' areas in pixels, a
            list for each map of the pyramid, of which the last is added behind the encoder's.
        ratios: Height divided by width of the anchors.
        loss_weights: What multiplies parts of the loss, by name, 1 for the others: `objectness`, `rpn_box`
            (`faster_rcnn` alone), `classification`, `box`.
        score: The least score of a detection.
        overlap: Of two detections of a class with a greater intersection over union than this, the surer one stays.
        most: The greatest number of detections in an image.
        metric: The metric that judges the task.
        counts: Training boxes of each class.
        sizes: Sizes of boxes as they are common in the training rows, in pixels as the encoder reads them.
        image_size: Height and width of the images as the encoder reads them.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(BoxMetric)
    condenses = True
    reads: ClassVar[FeatureKind] = "map"
    modalities: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        image_column: str = "image",
        sources: str | Sequence[str] | None = None,
        classes: int | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        head: Literal["faster_rcnn", "retinanet"] = "faster_rcnn",
        width: int = 256,
        hidden: int = 1024,
        regions: int = 512,
        anchors: Literal["auto"] | Sequence[Sequence[float]] = "auto",
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        loss_weights: Mapping[str, float] | None = None,
        score: float = 0.05,
        overlap: float = 0.5,
        most: int = 100,
        metric: BoxMetric = "map_50",
        counts: FromData[Sequence[int] | None] = None,
        sizes: FromData[Sequence[float]] = (),
        image_size: FromData[Sequence[int] | None] = None,
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
            raise UserError(f"Task '{self.name}': without data, classes has to be given: their number or their names.")
        self.classes = names
        self.image_column = image_column
        self.counts = None if counts is None else tuple(counts)
        if head not in _HEADS:
            raise UserError(
                f"Task '{self.name}': there is no head '{head}'.{closest(head, _HEADS)} Allowed: {listing(_HEADS)}."
            )
        for parameter, value in {"width": width, "hidden": hidden, "regions": regions, "most": most}.items():
            self._require(value >= 1, f"{parameter} is {value}", "at least 1")
        self._require(0 <= score < 1, f"score is {score}", "at least 0 and below 1")
        self._require(0 < overlap <= 1, f"overlap is {overlap}", "above 0 and at most 1")
        self._require(len(ratios) > 0 and min(ratios) > 0, f"ratios is {list(ratios)}", "numbers above 0")
        if isinstance(anchors, str) and anchors != "auto":
            raise UserError(
                f"Task '{self.name}': anchors is '{anchors}'. Allowed: 'auto', or lists of sizes in pixels."
            )
        self.head = head
        self.loss_weights = self._weights(loss_weights or {})
        self.settings = DetectorSettings(
            classes=len(names),
            width=width,
            anchors=None if isinstance(anchors, str) else [list(each) for each in anchors],
            ratios=tuple(ratios),
            sizes=tuple(sizes),
            image_size=None if image_size is None else (image_size[0], image_size[1]),
            score=score,
            overlap=overlap,
            most=most,
            hidden=hidden,
            regions=regions,
        )

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        columns = one_column(parameters.get("target"), parameters.get("name"))
        return TargetSpec(
            kind="boxes",
            columns=columns,
            classes=class_names(parameters.get("classes"), task_name(parameters.get("name"), columns)),
            sources=source_names(parameters.get("sources"), parameters.get("name")),
            sample_weight=weight_column(parameters.get("sample_weight"), columns, parameters.get("name")),
            image=parameters.get("image_column", "image"),
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        return completed(
            parameters,
            summary,
            classes=summary.classes,
            counts=map(int, summary.counts),
            sizes=map(float, summary.sizes),
            image_size=map(int, summary.image_size),
        )

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return len(self.classes)

    def make_head(self, shape: FeatureShape) -> Detector:
        """See `Task.make_head`."""
        make: Callable[..., Detector] = _HEADS[self.head]
        return make(shape, self.settings)

    def loss_parts(self, output: DetectorOutput, target: Boxes) -> dict[str, Tensor]:
        """The parts of the loss by name, without their weights: float32 `[B]`."""
        return output.detector.losses(output, target)

    def entries(self, output: Any, target: Any) -> Tensor:
        """The loss of each image, float32 `[B]`; see `Task.entries`."""
        if isinstance(output, NoDetections):
            return torch.full((len(output),), math.nan, device=output.marks.device)
        parts = self.loss_parts(output, target)
        return torch.stack([loss * self.loss_weights.get(name, 1.0) for name, loss in parts.items()]).sum(dim=0)

    def total(self, target: Boxes, mask: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """See `Task.total`."""
        known = torch.ones(len(target), dtype=torch.bool, device=target.device) if mask is None else mask
        return known.sum() if weights is None else weights.masked_fill(~known, 0.0).sum()

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.box_scores import box_metrics

        return box_metrics(self.settings.most)

    def condensed(self, output: Any) -> Detections:
        """See `Task.condensed`: the detections."""
        if isinstance(output, NoDetections):
            device = output.marks.device
            nothing = {
                "boxes": torch.empty((0, 4), device=device),
                "scores": torch.empty(0, device=device),
                "labels": torch.empty(0, dtype=torch.int64, device=device),
            }
            return [nothing] * len(output)
        device = next(output.detector.parameters()).device
        with torch.no_grad():
            return output.detector.detections(output.map(lambda values: values.to(device)))  # type: ignore[no-any-return]

    def update_metrics(self, metrics: MetricCollection, output: Detections, target: Boxes, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        rows = mask.tolist()
        truth = [
            {"boxes": row.boxes, "labels": row.classes, "iscrowd": row.ignored.long()}
            for row, known in zip(target.rows(), rows, strict=True)
            if known
        ]
        metrics.update([found for found, known in zip(output, rows, strict=True) if known], truth)

    def baseline(self, rows: int) -> Any:
        """Nothing is found: no boxes at fixed places are any better."""
        return NoDetections(torch.zeros(rows))

    def decode(self, output: Any) -> dict[str, Any]:
        """For each image a list of detections `{class, score, xmin, ymin, xmax, ymax}`, the surest first.

        They are in pixels of the image as the encoder reads it; tables of predictions have them in those of the file.
        """
        images = []
        for found in self.condensed(output):
            rows = zip(*(found[key].detach().cpu().tolist() for key in ("labels", "scores", "boxes")), strict=True)
            images.append(
                [
                    {
                        "class": self.classes[label],
                        "score": round(score, 4),
                        **dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
                    }
                    for label, score, box in rows
                ]
            )
        return {"": images}

    def _weights(self, given: Mapping[str, float]) -> dict[str, float]:
        parts = _HEADS[self.head].parts
        for name, weight in given.items():
            if name not in parts:
                raise UserError(
                    f"Task '{self.name}': loss_weights names '{name}', which is no part of the loss of {self.head}."
                    f"{closest(name, parts)} Allowed: {listing(parts)}."
                )
            self._require(0 <= weight < math.inf, f"loss_weights of '{name}' is {weight}", "a number of at least 0")
        return dict(given)

    def _require(self, fulfilled: bool, found: str, allowed: str) -> None:
        if not fulfilled:
            raise UserError(f"Task '{self.name}': {found}, but must be {allowed}.")


@dataclass(frozen=True, eq=False)
class NoDetections(RowValues):
    """The output of a detector that finds nothing.

    Attributes:
        marks: `[B]`: a number for each image.
    """

    marks: Tensor

    def __len__(self) -> int:
        return len(self.marks)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """See `RowValues.map`."""
        return type(self)(function(self.marks))

    def select(self, rows: Tensor) -> Self:
        """See `RowValues.select`."""
        return type(self)(self.marks[rows.to(self.marks.device)])
