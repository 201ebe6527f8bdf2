"""How far away what each pixel shows is."""

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
from polytask.tasks.metrics import DepthMetric
from polytask.tasks.pixel_losses import number_losses, scale_invariant_losses
from polytask.tasks.target import completed
from polytask.tasks.task import in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

DepthLoss = Literal["l1", "mse", "huber", "berhu", "silog"]

_LEAST = 1e-3
"""The least depth that is predicted, as a share of the training pixels' mean: ratios need one above 0."""


class Depth(DenseTask):
    """The depth of each pixel of an image, a number above 0.

    The head gives standardised depths, or for the loss `silog` standardised logarithms of depths, and the loss of a
    step is the mean over its labelled pixels. Metrics and predictions are in the user's units.

    A cell of the target has the path or the bytes of a map: an image (PNG of 8 or 16 bits, TIFF), an array (`.npy`) or
    numbers as text (`.csv`). Where an image is enlarged by a factor s, its depths are divided by s, as things that look
    larger are nearer (Eigen, Puhrsch and Fergus, "Depth Map Prediction from a Single Image using a Multi-Scale Deep
    Network", NeurIPS 2014, https://arxiv.org/abs/1406.2283).

    Args:
        target: The column of maps; None: the one called as the task is.
        name: The task's name; None: the target.
        image: The input of images that the maps lie on, or its column; None: the only one.
        scale: What numbers in the files are multiplied by: 0.001 where they are millimetres and metres are wanted.
        invalid: Numbers in the files that stand for no label. NaN and depths that are not above 0 never are one.
        on_error: What a map that cannot be read is: `error`, or `skip`: the row is unlabelled, which is logged.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        loss: `l1`, `mse`, `huber` or `berhu`, as for dense_regression; or `silog`, scale-invariant: for each image
            `mean d² - forgiven (mean d)²` with d the difference of the logarithms, as in the paper.
        delta: Where the Huber loss turns from square to linear, in standard deviations.
        forgiven: How much of a factor that all depths of an image have in common is forgiven by `silog`, from 0 (none)
            to 1 (all of it).
        head: The decoder: `fpn`, `unet` or `deeplab`.
        width: Channels of the decoder.
        stride: The finest map that the decoder reads, in pixels between its positions; None: 4 for `fpn` and `deeplab`,
            and for `unet` the finest that the encoder has.
        dropout: Probability of dropping a channel before the last linear map.
        metric: The metric that judges the task.
        mean: Mean over the labelled training pixels, of the depths or of their logarithms.
        std: Standard deviation over the labelled training pixels, of the depths or of their logarithms.
        image_size: Height and width of the images as the encoder reads them.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(DepthMetric)
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        image: str | None = None,
        scale: float = 1.0,
        invalid: Sequence[float] = (0.0,),
        on_error: Literal["error", "skip"] = "error",
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        loss: DepthLoss = "l1",
        delta: float = 1.0,
        forgiven: float = 0.5,
        head: DenseDecoder = "fpn",
        width: int = 128,
        stride: int | None = None,
        dropout: float = 0.0,
        metric: DepthMetric = "abs_error",
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
        if loss not in get_args(DepthLoss):
            raise UserError(f"Task '{self.name}': there is no loss '{loss}'. Allowed: {listing(get_args(DepthLoss))}.")
        if not delta > 0:
            raise UserError(f"Task '{self.name}': delta is {delta}, but must be above 0.")
        if not 0 <= forgiven <= 1:
            raise UserError(f"Task '{self.name}': forgiven is {forgiven}, but must be from 0 to 1.")
        if not scale > 0:
            raise UserError(f"Task '{self.name}': scale is {scale}, but must be above 0.")
        mean, std = list(mean or [0.0]), list(std or [1.0])
        if not (len(mean) == len(std) == 1 and std[0] > 0):
            raise UserError(f"Task '{self.name}': mean is {mean} and std is {std}: one number each, std above 0.")
        self.loss_name, self.delta, self.forgiven = loss, delta, forgiven
        self.image, self.on_error = image, on_error
        self.scale, self.invalid = scale, tuple(invalid)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        return pixel_spec(
            "dense",
            parameters,
            scale=float(parameters.get("scale", 1.0)),
            invalid=tuple(map(float, parameters.get("invalid", (0.0,)) or ())),
            meaning="depth",
            logarithm=parameters.get("loss") == "silog",
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        size = map(int, summary.image_size)
        return completed(parameters, summary, mean=summary.mean, std=summary.std, image_size=size)

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    def pixel_losses(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """See `DenseTask.pixel_losses`."""
        if self.loss_name != "silog":
            return number_losses(self.loss_name, output, (target - self.mean) / self.std, mask, self.delta)
        truth = target.masked_fill(~mask[:, None], 1.0).log()
        return scale_invariant_losses((output * self.std + self.mean - truth)[:, 0], mask, self.forgiven)

    def depths(self, output: Tensor) -> Tensor:
        """An output in the user's units, `[B, 1, H, W]`, above 0."""
        found = in_full_precision(output) * self.std + self.mean
        if self.loss_name == "silog":
            return found.exp()
        return found.clamp(min=max(float(self.mean) * _LEAST, torch.finfo(found.dtype).tiny))

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.pixel_scores import depth_metrics

        return depth_metrics()

    def condensed(self, output: Tensor) -> Tensor:
        """Depths; see `Task.condensed`."""
        return self.depths(output)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(output.expand(target.shape)[:, 0][mask], target[:, 0][mask])

    def baseline(self, rows: int) -> Tensor:
        """The mean of the training pixels, or of their logarithms, which is 0 in standardised values."""
        return self.everywhere(torch.zeros(1), rows)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """A map of depths for each row; see `Task.decode`."""
        return {"": [PixelValues(each) for each in self.depths(output.detach())[:, 0].cpu().numpy()]}
