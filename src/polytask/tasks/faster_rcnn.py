"""The two-stage head of detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.boxes import Boxes
from polytask.features import FeatureShape
from polytask.tasks.detector import (
    Anchors,
    Detector,
    DetectorOutput,
    DetectorSettings,
    anchor_sizes,
    per_image,
    plain,
    required,
    same_draws,
)


class FasterRCNN(Detector):
    """Faster R-CNN (Ren et al., NeurIPS 2015) over a feature pyramid (Lin et al., CVPR 2017), of torchvision's modules.

    A small network proposes regions around anchors; the features within each are then classified, and its box refined.
    Thresholds and numbers of samples are torchvision's. Losses are means over the samples of each image.

    Args:
        shape: The maps.
        settings: What the user can set.
    """

    parts: ClassVar[tuple[str, ...]] = ("objectness", "rpn_box", "classification", "box")

    def __init__(self, shape: FeatureShape, settings: DetectorSettings) -> None:
        super().__init__(shape, settings, finest=4, pooled=True)
        rpn, roi, faster = (required(name) for name in ("rpn", "roi_heads", "faster_rcnn"))
        from torchvision.ops import MultiScaleRoIAlign

        sizes = anchor_sizes(settings.anchors, settings.sizes, self.strides)
        self.anchors = Anchors(sizes, settings.ratios, self.strides)
        self.rpn: Any = rpn.RegionProposalNetwork(
            self.anchors.generator,
            rpn.RPNHead(settings.width, self.anchors.number),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2000, "testing": 1000},
            post_nms_top_n={"training": 2000, "testing": 1000},
            nms_thresh=0.7,
        )
        self._regions = [str(place) for place in range(len(self.strides) - 1)]
        self.roi_heads: Any = roi.RoIHeads(
            MultiScaleRoIAlign(self._regions, output_size=7, sampling_ratio=2),
            faster.TwoMLPHead(settings.width * 7**2, settings.hidden),
            faster.FastRCNNPredictor(settings.hidden, settings.classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=settings.regions,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=settings.score,
            nms_thresh=settings.overlap,
            detections_per_img=settings.most,
        )

    def look(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See `Detector.look`: whether there is something at each anchor `[B, N, 1]`, and how its box differs."""
        rows = len(maps[0])
        layers = required("rpn").concat_box_prediction_layers(*self.rpn.head(list(maps)))
        return tuple(layer.view(rows, -1, layer.shape[-1]).float() for layer in layers)

    def losses(self, output: DetectorOutput, target: Boxes) -> dict[str, Tensor]:
        """See `Detector.losses`."""
        targets = plain(target, first_class=1)
        with same_draws(self.training, target.device):
            first = self._proposal_losses(output, targets)
            proposals, _, labels, offsets = self.roi_heads.select_training_samples(self._proposals(output), targets)
        logits, deltas = self._regard(output, proposals)
        images, counts = _owners(labels)
        labels, offsets = torch.cat(labels), torch.cat(offsets)
        positive = (labels > 0).nonzero().squeeze(1)
        chosen = deltas.view(len(labels), -1, 4)[positive, labels[positive]]
        classes = F.cross_entropy(logits, labels, reduction="none")
        boxes = F.smooth_l1_loss(chosen, offsets[positive], beta=1 / 9, reduction="none").sum(dim=1)
        return {
            **first,
            "classification": per_image(classes, images, counts),
            "box": per_image(boxes, images[positive], counts),
        }

    def detections(self, output: DetectorOutput) -> list[dict[str, Tensor]]:
        """See `Detector.detections`."""
        proposals = self._proposals(output)
        found = self.roi_heads.postprocess_detections(
            *self._regard(output, proposals), proposals, [self.size_of(output)] * len(output)
        )
        return [
            {"boxes": boxes, "scores": scores, "labels": labels - 1}
            for boxes, scores, labels in zip(*found, strict=True)
        ]

    def _proposal_losses(self, output: DetectorOutput, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses of the network that proposes regions."""
        anchors, _ = self.anchors(output.maps)
        objectness, deltas = output.found
        each = [anchors] * len(output)
        labels, matched = self.rpn.assign_targets_to_anchors(each, targets)
        offsets = self.rpn.box_coder.encode(matched, each)
        positive, negative = (torch.stack(found) > 0 for found in self.rpn.fg_bg_sampler(labels))
        sampled = positive | negative
        counts = sampled.sum(dim=1)
        images, places = sampled.nonzero().unbind(dim=1)
        wanted = torch.stack(labels)[images, places]
        object_losses = F.binary_cross_entropy_with_logits(objectness[images, places, 0], wanted, reduction="none")
        owners, places = positive.nonzero().unbind(dim=1)
        truth = torch.stack(list(offsets))[owners, places]
        box_losses = F.smooth_l1_loss(deltas[owners, places], truth, beta=1 / 9, reduction="none").sum(dim=1)
        return {
            "objectness": per_image(object_losses, images, counts),
            "rpn_box": per_image(box_losses, owners, counts),
        }

    @torch.no_grad()
    def _proposals(self, output: DetectorOutput) -> list[Tensor]:
        """The regions that are worth a second look, for each image `[n, 4]`."""
        anchors, numbers = self.anchors(output.maps)
        objectness, deltas = output.found
        rows = len(output)
        boxes = self.rpn.box_coder.decode(deltas.reshape(-1, 4), [anchors] * rows).view(rows, -1, 4)
        sizes = [self.size_of(output)] * rows
        found: list[Tensor] = self.rpn.filter_proposals(boxes, objectness, sizes, numbers)[0]
        return found

    def _regard(self, output: DetectorOutput, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of classes `[N, 1 + classes]`, and offsets `[N, 4 (1 + classes)]`, for the regions of all images."""
        maps = dict(zip(self._regions, output.maps, strict=False))
        features = self.roi_heads.box_roi_pool(maps, regions, [self.size_of(output)] * len(output))
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(features))
        return logits.float(), deltas.float()


def _owners(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The image that each entry of some parts belongs to, and how many each image has; int64."""
    counts = torch.tensor([len(part) for part in parts], device=parts[0].device)
    return torch.repeat_interleave(torch.arange(len(parts), device=counts.device), counts), counts
