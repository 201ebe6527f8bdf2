"""The computation of metrics of boxes; imported when first used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.detection import MeanAveragePrecision

from polytask.errors import require

_NAMES = ("map", "map_50", "map_75")


class BoxScores(MeanAveragePrecision):
    """Mean average precision as COCO has it, from torchmetrics; NaN where there is no box to be found.

    Args:
        most: The greatest number of detections in an image.
    """

    def __init__(self, most: int) -> None:
        require("faster_coco_eval", extra="vision", purpose="The metrics of the task 'detection'")
        super().__init__(max_detection_thresholds=[1, 10, max(most, 11)], backend="faster_coco_eval")
        self.warn_on_many_detections = False

    def compute(self) -> dict[str, Any]:
        """The scores by name."""
        found = super().compute() if self.groundtruth_labels else {}
        nothing = torch.tensor(-1.0)
        values: dict[str, Tensor] = {name: found.get(name, nothing) for name in _NAMES}
        return {name: torch.where(value < 0, torch.nan, value) for name, value in values.items()}


def box_metrics(most: int) -> MetricCollection:
    """Metrics of boxes; fed with lists of detections and of boxes to be found."""
    return MetricCollection({"boxes": BoxScores(most)}, compute_groups=False)
