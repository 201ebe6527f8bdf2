"""Which way the surface that each pixel shows is turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.components import FromData
from polytask.errors import UserError
from polytask.labels import TargetSpec, TargetSummary
from polytask.pixels import PixelValues
from polytask.tasks.dense_head import DenseDecoder
from polytask.tasks.dense_task import DenseTask, pixel_spec
from polytask.tasks.metrics import NormalMetric
from polytask.tasks.target import completed
from polytask.tasks.task import in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Normals(DenseTask):
    """The direction `(x, y, z)` of length 1 of the surface at each pixel of an image.

    The head gives three numbers, made a unit vector; the loss of a pixel is 1 minus the cosine of the angle between
    it and the true one (Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common
    Multi-Scale Convolutional Architecture", ICCV 2015, https://arxiv.org/abs/1411.4734), and that of a step the mean
    over its labelled pixels.

    A cell of the target has the path or the bytes of a map of three channels: an image, whose whole numbers from 0 to
    the greatest of their type stand for -1 to 1, or an array (`.npy`) of the numbers themselves. They are made unit
    vectors; where they are hardly longer than 0, there is no label. Normals are mirrored and turned with the image, and
    where it is enlarged by s, they become `(x, y, s z)`, made unit, which goes with depths divided by s.

    Args:
        target: The column of maps; None: the one called as the task is.
        name: The task's name; None: the target.
        image: The input of images that the maps lie on, or its column; None: the only one.
        y: Whether the second number grows `down` the image, or `up`.
        invalid: Numbers in the files one of which is enough for a pixel to have no label, as NaN always is.
        on_error: What a map that cannot be read is: `error`, or `skip`: the row is unlabelled, which is logged.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        head: The decoder: `fpn`, `unet` or `deeplab`.
        width: Channels of the decoder.
        stride: The finest map that the decoder reads, in pixels between its positions; None: 4 for `fpn` and `deeplab`,
            and for `unet` the finest that the encoder has.
        dropout: Probability of dropping a channel before the last linear map.
        metric: The metric that judges the task.
        mean: Mean of the normals of the labelled training pixels.
        image_size: Height and width of the images as the encoder reads them.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(NormalMetric)
    mean: Tensor

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        image: str | None = None,
        y: Literal["down", "up"] = "down",
        invalid: Sequence[float] = (),
        on_error: Literal["error", "skip"] = "error",
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        head: DenseDecoder = "fpn",
        width: int = 128,
        stride: int | None = None,
        dropout: float = 0.0,
        metric: NormalMetric = "mean_angle",
        mean: FromData[Sequence[float] | None] = None,
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
        if y not in ("down", "up"):
            raise UserError(f"Task '{self.name}': y is '{y}'. Allowed: 'down', 'up'.")
        mean = list(mean or [0.0, 0.0, 1.0])
        if len(mean) != 3:
            raise UserError(f"Task '{self.name}': mean is {mean}, but a normal has three numbers.")
        self.image, self.y, self.invalid, self.on_error = image, y, tuple(invalid), on_error
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        return pixel_spec(
            "dense",
            parameters,
            invalid=tuple(map(float, parameters.get("invalid") or ())),
            meaning="normals",
            upwards=parameters.get("y") == "up",
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        return completed(parameters, summary, mean=summary.mean, image_size=map(int, summary.image_size))

    @property
    def outputs(self) -> int:
        """Three."""
        return 3

    def pixel_losses(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """See `DenseTask.pixel_losses`."""
        return 1 - (self.prediction(output) * target).sum(1)

    def prediction(self, output: Tensor) -> Tensor:
        """Unit vectors; see `Task.prediction`."""
        return F.normalize(in_full_precision(output), dim=1)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.pixel_scores import normal_metrics

        return normal_metrics()

    def condensed(self, output: Tensor) -> Tensor:
        """Unit vectors; see `Task.condensed`."""
        return self.prediction(output)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        one, other = ((output + sign * target).norm(dim=1)[mask] for sign in (-1, 1))
        # The arc cosine would lose small angles to rounding.
        metrics.update(torch.rad2deg(2 * torch.atan2(one, other)))

    def baseline(self, rows: int) -> Tensor:
        """The mean direction of the training pixels."""
        known = self.mean.cpu()
        return self.everywhere(known if known.norm() > 0 else torch.tensor([0.0, 0.0, 1.0]), rows)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """A map of unit vectors for each row; see `Task.decode`."""
        maps = self.prediction(output.detach()).cpu().movedim(1, -1).numpy()
        return {"": [PixelValues(each, vectors=True) for each in maps]}
