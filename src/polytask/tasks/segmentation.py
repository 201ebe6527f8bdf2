"""A class for each pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.components import FromData
from polytask.errors import UserError, listing
from polytask.labels import TargetSpec, TargetSummary
from polytask.pixels import PixelValues
from polytask.tasks.class_weights import class_weight_tensor
from polytask.tasks.dense_head import DenseDecoder
from polytask.tasks.dense_task import DenseTask, pixel_spec
from polytask.tasks.metrics import MaskMetric
from polytask.tasks.target import class_names, completed

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

Classes = int | Sequence[str] | Mapping[str, int]


class Segmentation(DenseTask):
    """A class for each pixel of an image (semantic segmentation): softmax and cross-entropy, and Dice if wanted.

    The loss of a step is `sum_p w(y_p) l_p / sum_p w(y_p)` over its labelled pixels, `l_p` being the cross-entropy and
    `w` the class weights, all 1 by default. `dice` adds `dice · (1 - mean_c 2 sum_p π_pc y_pc / sum_p (π_pc + y_pc))`
    of each image, over the classes c that the image has (Milletari, Navab and Ahmadi, "V-Net", 3DV 2016); an image
    counts as much as its labelled pixels do.

    A cell of the target has the path or the bytes of a mask: an image of class numbers (PNG, grey or palette) or an
    array (`.npy`). It moves as the image does; what moves in counts as unlabelled.

    Args:
        target: The column of masks; None: the one called as the task is.
        name: The task's name; None: the target.
        image: The input of images that the masks lie on, or its column; None: the only one.
        classes: The classes' names in the order of their numbers 0, 1...; or their number C; or numbers by name,
            `{road: 3, car: 8}`; None: the numbers that the training masks have.
        ignore: Numbers in the masks that stand for no class: such pixels are unlabelled.
        on_error: What a mask that cannot be read is: `error`, or `skip`: the row is unlabelled, which is logged.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        class_weights: Weights of the classes in the loss, by name (1 for those not named), or `balanced`: n / (C n_c)
            for a class with n_c of n training pixels, C being the number of classes that occur.
        dice: What the Dice loss counts beside the cross-entropy.
        head: The decoder: `fpn`, `unet` or `deeplab`.
        width: Channels of the decoder.
        stride: The finest map that the decoder reads, in pixels between its positions; None: 4 for `fpn` and `deeplab`,
            and for `unet` the finest that the encoder has.
        dropout: Probability of dropping a channel before the last linear map.
        metric: The metric that judges the task.
        counts: Training pixels of each class.
        ids: The classes' numbers in the masks.
        image_size: Height and width of the images as the encoder reads them.

    Raises:
        UserError: A parameter is out of range, or weights name a class that does not exist.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(MaskMetric)
    class_weights: Tensor | None

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        image: str | None = None,
        classes: Classes | None = None,
        ignore: Sequence[int] = (),
        on_error: Literal["error", "skip"] = "error",
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        class_weights: Literal["balanced"] | Mapping[str, float] | None = None,
        dice: float = 0.0,
        head: DenseDecoder = "fpn",
        width: int = 128,
        stride: int | None = None,
        dropout: float = 0.0,
        metric: MaskMetric = "miou",
        counts: FromData[Sequence[int] | None] = None,
        ids: FromData[Sequence[int] | None] = None,
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
        names, numbers = _classes(classes, self.name)
        if names is None or numbers is None:
            raise UserError(f"Task '{self.name}': without data, classes has to be given: their number or their names.")
        if len(names) < 2:
            raise UserError(
                f"Task '{self.name}' has only one class, {listing(names)}: there is nothing to tell apart. Two or more "
                "are needed."
            )
        if not (math.isfinite(dice) and dice >= 0):
            raise UserError(f"Task '{self.name}': dice is {dice}, but must be a number of at least 0.")
        if counts is not None and len(counts) != len(names):
            raise UserError(f"Task '{self.name}': there are {len(names)} classes, but {len(counts)} counts.")
        self.classes = names
        self.ids = numbers if ids is None else tuple(ids)
        self.image, self.ignore, self.on_error = image, tuple(ignore), on_error
        self.counts = None if counts is None else tuple(counts)
        self.dice = dice
        self.register_buffer("class_weights", class_weight_tensor(class_weights, names, self.counts, self.name))

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        task = str(parameters.get("name") or parameters.get("target") or "")
        names, ids = _classes(parameters.get("classes"), task)
        ignore = tuple(parameters.get("ignore") or ())
        both = sorted(set(ids or ()) & set(ignore))
        if both:
            raise UserError(
                f"Task '{task}': {listing(map(str, both))} {'is' if len(both) == 1 else 'are'} both a class and to be "
                "ignored. Take it out of `classes`, or out of `ignore`."
            )
        return pixel_spec("mask", parameters, classes=names, ids=ids, ignore=ignore)

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        ids = cls.target_spec(parameters).ids or tuple(map(int, summary.classes))
        return completed(
            parameters,
            summary,
            classes=summary.classes,
            counts=map(int, summary.counts),
            ids=ids,
            image_size=map(int, summary.image_size),
        )

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return len(self.classes)

    def pixel_losses(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """See `DenseTask.pixel_losses`."""
        losses = F.cross_entropy(output, target, weight=self.class_weights, reduction="none")
        if not self.dice:
            return losses
        counts = self.importance(target)
        dice = self._dice(output.softmax(dim=1), target, mask)[:, None, None]
        return losses + self.dice * (dice if counts is None else dice * counts)

    def _dice(self, probabilities: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """`[B]`: the Dice loss of each image; 0 for one without a label."""
        known = mask[:, None].to(probabilities)
        truth = F.one_hot(target, self.outputs).movedim(-1, 1).to(probabilities) * known
        wanted = truth.sum((2, 3))
        both = (probabilities * truth).sum((2, 3))
        sizes = (probabilities * known).sum((2, 3)) + wanted
        there = wanted > 0
        shares = (2 * both / sizes.where(there, 1.0)).masked_fill(~there, 0.0)
        classes = there.sum(1)
        return (1 - shares.sum(1) / classes.clamp(min=1)).masked_fill(classes == 0, 0.0)

    def importance(self, target: Tensor) -> Tensor | None:
        """The weight of each pixel's class; see `Task.importance`."""
        return None if self.class_weights is None else self.class_weights[target]

    def prediction(self, output: Tensor) -> Tensor:
        """Probabilities of the classes; see `Task.prediction`."""
        return super().prediction(output).softmax(dim=1)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.pixel_scores import mask_metrics

        return mask_metrics(self.outputs)

    def condensed(self, output: Tensor) -> Tensor:
        """The likeliest class of each pixel, int64 `[B, H, W]`; see `Task.condensed`."""
        return output.argmax(dim=1)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(output.expand(target.shape), target, mask)

    def baseline(self, rows: int) -> Tensor:
        """Logarithms of the classes' shares of the training pixels; half a pixel for a class without any."""
        if self.counts is None:
            raise UserError(f"Task '{self.name}' has no baseline without counts, the training pixels of each class.")
        shares = torch.tensor(self.counts, dtype=torch.float64).clamp(min=0.5)
        return self.everywhere((shares / shares.sum()).log().float(), rows)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """A map of the classes' numbers for each row; see `Task.decode`."""
        ids = np.array(self.ids, dtype=np.uint8 if max(self.ids) < 256 else np.int32)
        named = dict(zip(self.ids, self.classes, strict=True))
        return {"": [PixelValues(ids[each], named) for each in self.condensed(output.detach()).cpu().numpy()]}


def _classes(classes: Classes | None, task: str) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None]:
    """The classes' names, and their numbers in masks."""
    if isinstance(classes, Mapping):
        names = class_names(list(classes), task)
        ids = tuple(classes.values())
        wrong = [i for i in ids if isinstance(i, bool) or not isinstance(i, int) or i < 0]
        if wrong or len(set(ids)) < len(ids):
            raise UserError(
                f"Task '{task}': classes is {dict(classes)}. Allowed: a whole number of at least 0 for each class, no "
                "two the same."
            )
        return names, ids
    names = class_names(classes, task)
    return names, None if names is None else tuple(range(len(names)))
