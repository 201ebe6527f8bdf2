"""A training step of detection: the shared model over the same network of torchvision, trained alone.

    python benchmarks/detection_step.py [--rounds N] [--json FILE]

Faster R-CNN over a ResNet-18, with anchors and numbers of samples as torchvision has them by default, and a narrower
pyramid. Forward and backward; the variants take turns on one thread, medians are given:

- `torchvision`: `torchvision.models.detection.FasterRCNN`.
- `polytask`: `MultiTaskModel` with the task `detection`.
- `torchvision and a classifier`: the step of a detector, and that of a ResNet-18 that classifies other, small images.
- `polytask, shared`: both tasks on one encoder, in one step.

The aim is a ratio of at most 1.1 for either pair.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from interleave import interleaved
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from polytask import MultiTaskModel
from polytask.boxes import Boxes
from polytask.data.batch import Batch
from polytask.encoders import ResNet
from polytask.fusion import OneEncoder
from polytask.partial import PartialInput
from polytask.shapes import ImageShape
from polytask.tasks import Classification, Detection

HEIGHT, WIDTH, IMAGES, OBJECTS, CLASSES = 192, 256, 2, 12, 3
PYRAMID, HIDDEN, SMALL, PICTURES = 64, 256, 64, 16
AIM = 1.1


def boxes_of(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Boxes of the size of blood cells."""
    corner = torch.rand(IMAGES * OBJECTS, 2, generator=generator) * torch.tensor([WIDTH - 48.0, HEIGHT - 48.0])
    return torch.cat([corner, corner + 44], dim=1), torch.randint(CLASSES, (IMAGES * OBJECTS,), generator=generator)


def torchvision_detector() -> FasterRCNN:
    layers = {f"layer{number}": str(number - 1) for number in range(1, 5)}
    backbone = BackboneWithFPN(resnet18(weights=None), layers, [64, 128, 256, 512], PYRAMID)
    sizes = tuple((8.0 * stride,) for stride in (4, 8, 16, 32, 64))
    from torchvision.models.detection.faster_rcnn import TwoMLPHead

    return FasterRCNN(
        backbone,
        box_head=TwoMLPHead(PYRAMID * 49, HIDDEN),
        box_predictor=predictor(),
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        min_size=HEIGHT,
        max_size=WIDTH,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )


def predictor() -> nn.Module:
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

    return FastRCNNPredictor(HIDDEN, CLASSES + 1)


def measure(rounds: int) -> dict[str, float]:
    """Median seconds of each variant."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    boxes, classes = boxes_of(generator)
    images = torch.rand(IMAGES, 3, HEIGHT, WIDTH, generator=generator)
    pictures = torch.rand(PICTURES, 3, SMALL, SMALL, generator=generator)
    labels = torch.randint(10, (PICTURES,), generator=generator)
    theirs, classifier = torchvision_detector().train(), resnet18(weights=None, num_classes=10).train()
    targets = [
        {"boxes": own, "labels": kinds + 1}
        for own, kinds in zip(boxes.split(OBJECTS), classes.split(OBJECTS), strict=True)
    ]
    shape = ImageShape(3, HEIGHT, WIDTH)
    detection = {"classes": CLASSES, "width": PYRAMID, "hidden": HIDDEN, "image_size": (HEIGHT, WIDTH)}
    alone = MultiTaskModel({"image": ResNet(18, shape=shape)}, [Detection("cells", **detection)]).train()
    both = MultiTaskModel(
        {"image": ResNet(18, shape=shape)},
        [Detection("cells", **detection), Classification("label", classes=10)],
        fusion=OneEncoder(),
    ).train()
    found = Boxes(boxes, classes, torch.zeros(len(boxes), dtype=torch.bool), torch.full((IMAGES,), OBJECTS))
    batch = Batch.of(
        {"image": images}, {"cells": found}, {"cells": torch.ones(IMAGES, dtype=torch.bool)}, torch.arange(IMAGES)
    )
    rows = IMAGES + PICTURES
    first = torch.arange(rows) < IMAGES
    mixed = Batch.of(
        {
            "image": PartialInput(images, torch.arange(IMAGES), rows),
            "small": PartialInput(pictures, torch.arange(IMAGES, rows), rows),
        },
        {"cells": found.spread(0, rows), "label": torch.cat([torch.zeros(IMAGES, dtype=torch.int64), labels])},
        {"cells": first, "label": ~first},
        torch.arange(rows),
    )

    def step(model: nn.Module, loss: Tensor) -> None:
        model.zero_grad()
        loss.backward()

    def detect() -> None:
        step(theirs, torch.stack(list(theirs(list(images), targets).values())).sum())

    def both_alone() -> None:
        detect()
        step(classifier, F.cross_entropy(classifier(pictures), labels))

    return interleaved(
        {
            "torchvision": detect,
            "polytask": lambda: step(alone, alone.losses(batch)["cells"]),
            "torchvision and a classifier": both_alone,
            "polytask, shared": lambda: step(both, torch.stack(list(both.losses(mixed).values())).sum()),
        },
        rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds = measure(arguments.rounds)
    names = list(seconds)
    ratios = {ours: seconds[ours] / seconds[theirs] for theirs, ours in (names[:2], names[2:])}
    for name, value in seconds.items():
        ratio = f"{ratios[name]:.2f} (aim: {AIM})" if name in ratios else ""
        print(f"{name:30} {1000 * value:8.0f} ms   {ratio}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": seconds, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
