"""What a row was before a part of it was taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.labels import TargetSummary
from polytask.tasks.head import mlp_head
from polytask.tasks.image_decoder import ImageDecoder
from polytask.tasks.label_free import LabelFreeTask
from polytask.tasks.metrics import RestorationMetric
from polytask.tasks.target import completed
from polytask.tasks.task import in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Reconstruction(LabelFreeTask):
    """Restores a whole row of a table, or a whole image, of which a part was taken away; needs no labels.

    A denoising autoencoder: Vincent, Larochelle, Bengio and Manzagol, "Extracting and Composing Robust Features with
    Denoising Autoencoders", ICML 2008. The head is the decoder, which reads the one vector of the row.

    - Of a table, each value is changed with the probability `share`: with `corruption: mask` a number becomes the mean
      and a category missing (masking noise, as in the paper); with `swap` it becomes that of another row of the batch
      (VIME; Yoon, Zhang, Jordon and van der Schaar, NeurIPS 2020). The loss is the mean over all columns: of squared
      errors for the numbers as the network reads them, standardised, indicators of missing ones included, and of
      cross-entropies for the codes of categories.
    - Of an image, each of 8 x 8 cells is blanked with the probability `share`. The loss is the mean squared error of
      all pixels, standardised. The decoder grows the image from a small map by convolutions; `hidden` is for tables.

    Args:
        input: The input with the table or the images; None: the only one.
        name: The task's name.
        sources: The named sources of `data` whose rows it learns from; None: all.
        weight: Multiplies the loss before the balancer sees it.
        auxiliary: Whether it is learned for the sake of the others alone, so that the mean gain leaves it out.
        metric: The metric that judges the task.
        share: The share of the row that is changed.
        corruption: What takes the place of a table's values, see above.
        hidden: Widths of the head's hidden layers; none: a linear head.
        mean: Of the training rows: the means of the numbers, or of the pixels of each channel.
        counts: Training rows of each code of the categorical columns, column by column.
        cardinalities: The number of codes of each categorical column.
        image_size: Height and width of the images; none: it is a table.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(RestorationMetric)
    condenses = True

    def __init__(
        self,
        input: str | None = None,
        *,
        name: str = "reconstruction",
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        auxiliary: bool = True,
        metric: RestorationMetric = "error",
        share: float = 0.3,
        corruption: Literal["mask", "swap"] = "mask",
        hidden: Sequence[int] = (),
        mean: FromData[Sequence[float]] = (),
        counts: FromData[Sequence[int]] = (),
        cardinalities: FromData[Sequence[int]] = (),
        image_size: FromData[Sequence[int]] = (),
    ) -> None:
        super().__init__(name, weight, metric, sources, auxiliary=auxiliary)
        _check(name, share)
        if not (len(mean) or len(cardinalities)):
            raise UserError(f"Task '{name}': without data, mean or cardinalities have to be given: what there is.")
        if len(counts) != sum(cardinalities):
            raise UserError(f"Task '{name}': there are {sum(cardinalities)} codes, but {len(counts)} counts.")
        self.input, self.share, self.corruption = input, share, corruption
        self.hidden = tuple(hidden)
        self.mean, self.counts = tuple(mean), tuple(counts)
        self.cardinalities, self.image_size = tuple(cardinalities), tuple(image_size)

    @classmethod
    def view_spec(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """See `LabelFreeTask.view_spec`."""
        share = parameters.get("share", 0.3)
        _check(parameters.get("name"), share)
        return {"kind": "corrupted", "share": share, "corruption": parameters.get("corruption", "mask")}

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        return completed(
            parameters,
            summary,
            mean=map(float, summary.mean),
            counts=map(int, summary.counts),
            cardinalities=map(int, summary.cardinalities),
            image_size=map(int, summary.image_size),
        )

    @property
    def outputs(self) -> int:
        """The number of values that the head gives for a row."""
        if self.image_size:
            return len(self.mean) * self.image_size[0] * self.image_size[1]
        return len(self.mean) + sum(self.cardinalities)

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`: for images its output is `[B, C, H, W]`."""
        if self.image_size:
            return ImageDecoder(shape.width, len(self.mean), self.image_size)
        return mlp_head(shape.width, self.hidden, self.outputs, 0.0, task=self.name)

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries`; of a table `[B, N + C]`, squared errors and cross-entropies."""
        output = in_full_precision(output)
        if self.image_size:
            return F.mse_loss(output, target, reduction="none")
        (numbers, *logits), codes = self._divided(output), target[:, len(self.mean) :].long()
        errors = [F.mse_loss(numbers, target[:, : len(self.mean)], reduction="none")]
        for each, code in zip(logits, codes.T, strict=True):
            errors.append(F.cross_entropy(each, code, reduction="none").unsqueeze(1))
        return torch.cat(errors, dim=1)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from torchmetrics import MetricCollection

        from polytask.tasks.restoration_scores import MeanOf

        return MetricCollection({name: MeanOf(name) for name in self.metric_names}, compute_groups=False)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        entries = self.entries(output, target)
        if self.image_size:
            metrics.update(error=entries, mse=entries, accuracy=entries[:0])
            return
        wanted = target[:, len(self.mean) :].long()
        codes = [logits.argmax(dim=1) for logits in self._divided(output)[1:]]
        right = torch.stack(codes, dim=1) == wanted if codes else wanted
        metrics.update(error=entries, mse=entries[:, : len(self.mean)], accuracy=right)

    def baseline(self, rows: int) -> Tensor:
        """The means of the training rows, and the logarithms of the codes' frequencies."""
        mean = torch.tensor(self.mean, dtype=torch.float32)
        if self.image_size:
            return mean.view(1, -1, 1, 1).expand(rows, -1, *self.image_size)
        found = [mean]
        counts = torch.tensor(self.counts, dtype=torch.float32).clamp(min=0.5)
        found += [(each / each.sum()).log() for each in torch.split(counts, list(self.cardinalities))]
        return torch.cat(found).expand(rows, -1)

    def _divided(self, output: Tensor) -> tuple[Tensor, ...]:
        """The numbers, and the logits of each categorical column."""
        return torch.split(output, [len(self.mean), *self.cardinalities], dim=1)


def _check(task: str | None, share: float) -> None:
    if not 0 <= share < 1:
        raise UserError(f"Task '{task}': share is {share}, but must be at least 0 and below 1.")
