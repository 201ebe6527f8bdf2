"""Small detectors and images with boxes, for tests."""

import torch

from polytask import MultiTaskModel
from polytask.boxes import Boxes
from polytask.data.batch import Batch
from polytask.encoders import CNN
from polytask.shapes import ImageShape
from polytask.tasks import Classification, Detection

SIZE = 32
SMALL = {"classes": 2, "width": 16, "hidden": 32, "regions": 32, "sizes": [8.0, 10.0, 12.0], "image_size": (SIZE, SIZE)}
HEADS = ("faster_rcnn", "retinanet")


def detection(**parameters):
    return Detection("what", **{**SMALL, **parameters})


def model_of(task, encoder=None, others=()):
    torch.manual_seed(0)
    encoder = encoder or CNN(8, 3, normalization="none", shape=ImageShape(3, SIZE, SIZE))
    return MultiTaskModel({"image": encoder}, [task, *others])


def squares(counts, seed=0):
    """Images with bright squares, red ones of class 0 and green ones of class 1."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(counts), 3, SIZE, SIZE, generator=generator) * 0.1
    boxes, classes = [], []
    for row, count in enumerate(counts):
        for _ in range(count):
            side = int(torch.randint(8, 13, (1,), generator=generator))
            x, y = (int(v) for v in torch.randint(0, SIZE - side, (2,), generator=generator))
            kind = int(torch.randint(2, (1,), generator=generator))
            images[row, :, y : y + side, x : x + side] = 0
            images[row, kind, y : y + side, x : x + side] = 2
            boxes.append([x, y, x + side, y + side])
            classes.append(kind)
    return images, Boxes(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
        torch.zeros(len(boxes), dtype=torch.bool),
        torch.tensor(counts),
    )


def batch_of(counts=(2, 1, 3, 0), seed=0, labelled=None, others=()):
    images, boxes = squares(counts, seed)
    mask = torch.ones(len(counts), dtype=torch.bool) if labelled is None else torch.tensor(labelled)
    targets, masks = {"what": boxes}, {"what": mask}
    for name in others:
        targets[name] = torch.arange(len(counts)) % 3
        masks[name] = torch.ones(len(counts), dtype=torch.bool)
    return Batch.of({"image": images}, targets, masks, torch.arange(len(counts)))


def other():
    return Classification("other", classes=3)
