"""The one-stage head of detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polytask.boxes import Boxes
from polytask.features import FeatureShape
from polytask.tasks.detector import (
    Anchors,
    Detector,
    DetectorOutput,
    DetectorSettings,
    anchor_sizes,
    plain,
    required,
)

_SCALES = 3
_CANDIDATES = 1000


class RetinaNet(Detector):
    """RetinaNet (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017), of torchvision's modules.

    Every anchor is classified at once, with the focal loss; thresholds are torchvision's. The losses of an image are
    divided by the number of its anchors that belong to a box. The convolutions before the last ones start from He's
    initialisation, for pyramids of any width.

    Args:
        shape: The maps.
        settings: What the user can set.
    """

    parts: ClassVar[tuple[str, ...]] = ("classification", "box")

    def __init__(self, shape: FeatureShape, settings: DetectorSettings) -> None:
        super().__init__(shape, settings, finest=8, pooled=True)
        sizes = anchor_sizes(settings.anchors, settings.sizes, self.strides, _SCALES)
        self.anchors = Anchors(sizes, settings.ratios, self.strides)
        self.head: Any = required("retinanet").RetinaNetHead(settings.width, self.anchors.number, settings.classes)
        for part in (self.head.classification_head, self.head.regression_head):
            for layer in part.conv.modules():
                if isinstance(layer, nn.Conv2d):
                    # torchvision's spread is for 256 channels: with few, hardly anything would come through.
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.box_coder: Any = self.head.regression_head.box_coder
        self.matcher: Any = required("_utils").Matcher(0.5, 0.4, allow_low_quality_matches=True)
        self.settings = settings

    def look(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See `Detector.look`: logits of the classes at each anchor `[B, N, classes]`, and how its box differs."""
        found = self.head(list(maps))
        return found["cls_logits"].float(), found["bbox_regression"].float()

    def losses(self, output: DetectorOutput, target: Boxes) -> dict[str, Tensor]:
        """See `Detector.losses`."""
        from torchvision.ops import box_iou

        anchors, _ = self.anchors(output.maps)
        classes, boxes = [], []
        for logits, deltas, wanted in zip(*output.found, plain(target, first_class=0), strict=True):
            if len(wanted["boxes"]):
                matched = self.matcher(box_iou(wanted["boxes"], anchors))
            else:
                matched = torch.full((len(anchors),), self.matcher.BELOW_LOW_THRESHOLD, device=anchors.device)
            of_image = [wanted], [matched]
            found = {"cls_logits": logits[None], "bbox_regression": deltas[None]}
            classes.append(self.head.classification_head.compute_loss(of_image[0], found, of_image[1]))
            boxes.append(self.head.regression_head.compute_loss(of_image[0], found, [anchors], of_image[1]))
        return {"classification": torch.stack(classes), "box": torch.stack(boxes)}

    def detections(self, output: DetectorOutput) -> list[dict[str, Tensor]]:
        """See `Detector.detections`."""
        anchors, numbers = self.anchors(output.maps)
        size, (logits, deltas) = self.size_of(output), output.found
        return [self._of_image(anchors, numbers, *each, size) for each in zip(logits, deltas, strict=True)]

    def _of_image(
        self, anchors: Tensor, numbers: list[int], logits: Tensor, deltas: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        from torchvision.ops import batched_nms, clip_boxes_to_image

        scores, places, labels = [], [], []
        start = 0
        for own in torch.split(logits.sigmoid(), numbers):
            sure, order = own.flatten().topk(min(_CANDIDATES, own.numel()))
            order = order[sure > self.settings.score]
            scores.append(sure[: len(order)])
            places.append(start + order // own.shape[1])
            labels.append(order % own.shape[1])
            start += len(own)
        score, place, label = (torch.cat(each) for each in (scores, places, labels))
        boxes = clip_boxes_to_image(self.box_coder.decode_single(deltas[place], anchors[place]), size)
        kept = batched_nms(boxes, score, label, self.settings.overlap)[: self.settings.most]
        return {"boxes": boxes[kept], "scores": score[kept], "labels": label[kept]}
