"""What tasks have in common that give an answer for each pixel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.features import FeatureKind, FeatureShape
from polytask.labels import TargetKind, TargetSpec
from polytask.tasks.dense_head import DenseDecoder, DenseHead
from polytask.tasks.target import one_column, source_names, task_name, weight_column
from polytask.tasks.task import Task, in_full_precision


class DenseTask(Task):
    """An answer for each pixel of an image.

    The loss of a step is the mean over its labelled pixels, whichever images they are in.

    Args:
        name: The task's name; None: the target.
        target: The column.
        head: The decoder, its `width`, the finest `stride` that it reads, and `dropout`.
        image_size: Height and width of the images as the encoder reads them.
        common: What `Task.__init__` takes by name.
    """

    reads: ClassVar[FeatureKind] = "map"
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    condenses = True

    def __init__(
        self,
        name: str | None,
        target: str | None,
        head: tuple[DenseDecoder, int, int | None, float],
        image_size: Sequence[int] | None,
        **common: Any,
    ) -> None:
        columns = one_column(target, name)
        super().__init__(task_name(name, columns), columns, **common)
        self.head = head
        self.image_size = None if image_size is None else (image_size[0], image_size[1])

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`: its output is `[B, outputs, H, W]`."""
        decoder, width, stride, dropout = self.head
        return DenseHead(
            shape,
            self.outputs,
            decoder=decoder,
            width=width,
            stride=stride,
            size=self.image_size,
            dropout=dropout,
            task=self.name,
        )

    @property
    def answer_size(self) -> int:
        """See `Task.answer_size`."""
        height, width = self.image_size or (1, 1)
        return self.outputs * height * width

    @abstractmethod
    def pixel_losses(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """The loss of each pixel, `[B, H, W]`; it may depend on the other labelled pixels of the same image.

        Args:
            output: `[B, outputs, H, W]`, in full precision and of the target's size.
            target: As in `Batch.targets`.
            mask: bool `[B, H, W]`: where there is a label.
        """

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries`, where all pixels are labelled."""
        return self.pixel_losses(self.at_pixels(output, target), target, _everywhere(target))

    def loss(
        self,
        output: Any,
        target: Any,
        mask: Tensor | None,
        weights: Tensor | None = None,
        total: Tensor | None = None,
    ) -> Tensor:
        """See `Task.loss`."""
        mask = _everywhere(target) if mask is None else mask
        entries = self.pixel_losses(self.at_pixels(output, target), target, mask).masked_fill(~mask, 0.0)
        if weights is not None:
            entries = entries * weights.view(-1, 1, 1)
        total = self.total(target, mask, weights) if total is None else total
        return entries.sum() / total.where(total > 0, 1)

    def total(self, target: Any, mask: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """See `Task.total`."""
        return super().total(target, _everywhere(target) if mask is None else mask, weights)

    def at_pixels(self, output: Tensor, target: Tensor) -> Tensor:
        """An output in full precision, of the target's size."""
        found = in_full_precision(output)
        size = target.shape[-2:]
        if found.shape[-2:] == size:
            return found
        return F.interpolate(found, size, mode="bilinear", align_corners=False)

    def everywhere(self, answer: Tensor, rows: int) -> Tensor:
        """One output `[outputs]` for all pixels of so many rows, `[rows, outputs, H, W]`."""
        height, width = self.image_size or (1, 1)
        return answer[:, None, None].expand(rows, -1, height, width)


def pixel_spec(kind: TargetKind, parameters: Mapping[str, Any], **own: Any) -> TargetSpec:
    """How the target of a dense task is to be read.

    Args:
        kind: The kind of target.
        parameters: Those of the task's `__init__`.
        own: What belongs to this kind.
    """
    columns = one_column(parameters.get("target"), parameters.get("name"))
    return TargetSpec(
        kind=kind,
        columns=columns,
        sources=source_names(parameters.get("sources"), parameters.get("name")),
        sample_weight=weight_column(parameters.get("sample_weight"), columns, parameters.get("name")),
        image=parameters.get("image") or "",
        on_error=parameters.get("on_error", "error"),
        **own,
    )


def _everywhere(target: Tensor) -> Tensor:
    """The mask of a target that all pixels have."""
    pixels = target if target.ndim == 3 else target[:, 0]
    return torch.ones_like(pixels, dtype=torch.bool)
