import pytest
import torch
from torch import nn
from torchvision.models.detection import RetinaNet

from polytask.tasks.detector import plain

from .detecting import SIZE, batch_of, detection, model_of


@pytest.fixture
def task():
    return detection(head="retinanet", score=0.001)


def theirs(detector):
    backbone = nn.Identity()
    backbone.out_channels = 16
    return RetinaNet(backbone, 2, anchor_generator=detector.anchors.generator, head=detector.head, score_thresh=0.001)


def test_losses_are_those_of_torchvision(task):
    model, batch = model_of(task).train(), batch_of((2, 1, 0, 3))
    detector, boxes = model.heads["what"], batch.targets["what"]
    output = model(batch.inputs)["what"]
    anchors, _ = detector.anchors(output.maps)
    found = {"cls_logits": output.found[0], "bbox_regression": output.found[1]}
    wanted = theirs(detector).compute_loss(plain(boxes, first_class=0), found, [anchors] * 4)
    ours = task.loss_parts(output, boxes)
    torch.testing.assert_close(ours["classification"].mean(), wanted["classification"])
    torch.testing.assert_close(ours["box"].mean(), wanted["bbox_regression"])


def test_detections_are_those_of_torchvision(task):
    model, batch = model_of(task).eval(), batch_of()
    detector = model.heads["what"]
    with torch.no_grad():
        output = model(batch.inputs)["what"]
    anchors, numbers = detector.anchors(output.maps)
    found = {"cls_logits": output.found[0].split(numbers, 1), "bbox_regression": output.found[1].split(numbers, 1)}
    split = [list(anchors.split(numbers))] * 4
    wanted = theirs(detector).postprocess_detections(found, split, [(SIZE, SIZE)] * 4)
    for one, other in zip(task.condensed(output), wanted, strict=True):
        kept = one["scores"].argsort(descending=True, stable=True)[:100]
        torch.testing.assert_close(one["scores"][kept], other["scores"][:100])
        torch.testing.assert_close(one["boxes"][kept][:5], other["boxes"][:5])


def test_the_mean_is_over_all_images_of_parts_of_a_step(task):
    model, batch = model_of(task).train(), batch_of((2, 1, 0, 3), labelled=[True, True, True, False])
    whole, totals = model.losses(batch), model.totals(batch)
    assert totals["what"] == 3
    parts = [
        model.objectives(batch.part(rows), totals).losses["what"]
        for rows in (torch.tensor([0]), torch.tensor([1, 2, 3]))
    ]
    torch.testing.assert_close(sum(parts), whole["what"])
