"""Numbers for each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from polytask.components import FromData
from polytask.errors import UserError, listing
from polytask.labels import TargetSpec, TargetSummary
from polytask.pixels import PixelValues
from polytask.tasks.dense_head import DenseDecoder
from polytask.tasks.dense_task import DenseTask, pixel_spec
from polytask.tasks.metrics import MapMetric
from polytask.tasks.pixel_losses import number_losses
from polytask.tasks.target import completed
from polytask.tasks.task import in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

MapLoss = Literal["l1", "mse", "huber", "berhu"]


class DenseRegression(DenseTask):
    """One or several numbers for each pixel of an image: curvature, heat, density...

    The head gives standardised values, and the loss of a step is the mean over its labelled pixels of the error in
    these, and over the channels. Metrics and predictions are in the user's units. For depth and normals there are tasks
    of their own, as these change when an image is enlarged or turned.

    A cell of the target has the path or the bytes of a map: an image (PNG of 8 or 16 bits, TIFF), an array (`.npy`) or
    numbers as text (`.csv`). A pixel has all of its numbers or no label.

    Args:
        target: The column of maps; None: the one called as the task is.
        name: The task's name; None: the target.
        image: The input of images that the maps lie on, or its column; None: the only one.
        scale: What numbers in the files are multiplied by.
        shift: What is then added to them.
        invalid: Numbers in the files that stand for no label, as NaN always does.
        on_error: What a map that cannot be read is: `error`, or `skip`: the row is unlabelled, which is logged.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        loss: `l1`, `|e|`; `mse`, `e²`; `huber`, `e²/2` up to `|e| = delta` and `delta (|e| - delta/2)` beyond; `berhu`,
            `|e|` up to a fifth c of the image's greatest error and `(e² + c²) / 2c` beyond (Laina et al., 3DV 2016).
        delta: Where the Huber loss turns from square to linear, in standard deviations.
        head: The decoder: `fpn`, `unet` or `deeplab`.
        width: Channels of the decoder.
        stride: The finest map that the decoder reads, in pixels between its positions; None: 4 for `fpn` and `deeplab`,
            and for `unet` the finest that the encoder has.
        dropout: Probability of dropping a channel before the last linear map.
        metric: The metric that judges the task.
        mean: Mean of each channel over the labelled training pixels.
        std: Standard deviation of each channel over the labelled training pixels.
        image_size: Height and width of the images as the encoder reads them.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(MapMetric)
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        image: str | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
        invalid: Sequence[float] = (),
        on_error: Literal["error", "skip"] = "error",
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        loss: MapLoss = "l1",
        delta: float = 1.0,
        head: DenseDecoder = "fpn",
        width: int = 128,
        stride: int | None = None,
        dropout: float = 0.0,
        metric: MapMetric = "mae",
        mean: FromData[Sequence[float] | None] = None,
        std: FromData[Sequence[float] | None] = None,
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
        if loss not in get_args(MapLoss):
            raise UserError(f"Task '{self.name}': there is no loss '{loss}'. Allowed: {listing(get_args(MapLoss))}.")
        if not delta > 0:
            raise UserError(f"Task '{self.name}': delta is {delta}, but must be above 0.")
        mean, std = list(mean or [0.0]), list(std or [1.0])
        if len(mean) != len(std) or not min(std) > 0:
            raise UserError(f"Task '{self.name}': mean is {mean} and std is {std}: one of each a channel, std above 0.")
        self.loss_name, self.delta = loss, delta
        self.image, self.on_error = image, on_error
        self.scale, self.shift, self.invalid = scale, shift, tuple(invalid)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        return pixel_spec(
            "dense",
            parameters,
            scale=float(parameters.get("scale", 1.0)),
            shift=float(parameters.get("shift", 0.0)),
            invalid=tuple(map(float, parameters.get("invalid") or ())),
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        size = map(int, summary.image_size)
        return completed(parameters, summary, mean=summary.mean, std=summary.std, image_size=size)

    @property
    def outputs(self) -> int:
        """The number of channels."""
        return len(self.mean)

    def pixel_losses(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """See `DenseTask.pixel_losses`."""
        return number_losses(self.loss_name, output, self._standardised(target), mask, self.delta)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.pixel_scores import map_metrics

        return map_metrics(self.std)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        numbers = (in_full_precision(output).expand(target.shape), self._standardised(target))
        prediction, truth = (each.movedim(1, -1)[mask] for each in numbers)
        metrics.update(prediction, truth, torch.ones_like(truth, dtype=torch.bool))

    def baseline(self, rows: int) -> Tensor:
        """The mean of the training pixels, which is 0 in standardised values."""
        return self.everywhere(torch.zeros(self.outputs), rows)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """A map of numbers for each row; see `Task.decode`."""
        shape = (-1, 1, 1)
        values = in_full_precision(output.detach()).cpu() * self.std.cpu().view(shape) + self.mean.cpu().view(shape)
        maps = values[:, 0] if self.outputs == 1 else values.movedim(1, -1)
        return {"": [PixelValues(each) for each in maps.numpy()]}

    def _standardised(self, target: Tensor) -> Tensor:
        return (target - self.mean[:, None, None]) / self.std[:, None, None]
