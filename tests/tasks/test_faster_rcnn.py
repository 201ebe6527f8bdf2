import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from polytask.boxes import Boxes
from polytask.tasks.detector import plain

from .detecting import SIZE, batch_of, detection, model_of


def own_forward(detector, output, boxes):
    """The losses as torchvision's own modules compute them, with the same weights."""
    images = ImageList(torch.empty(len(boxes), 3, SIZE, SIZE), [(SIZE, SIZE)] * len(boxes))
    features = {str(place): level for place, level in enumerate(output.maps)}
    targets = plain(boxes, first_class=1)
    proposals, losses = detector.rpn(images, features, targets)
    _, more = detector.roi_heads(features, proposals, images.image_sizes, targets)
    return losses | more


NAMES = {
    "objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "classification": "loss_classifier",
    "box": "loss_box_reg",
}


@pytest.mark.parametrize("counts", [(3,), (0,), (2, 1, 4)])
def test_losses_and_gradients_are_those_of_torchvision(counts):
    task = detection(regions=16)
    model, batch = model_of(task).train(), batch_of(counts)
    detector, boxes = model.heads["what"], batch.targets["what"]
    # So few that every image has as many samples: torchvision's mean is over those of all images.
    detector.rpn.fg_bg_sampler.batch_size_per_image = 32

    def computed(how):
        model.zero_grad()
        torch.manual_seed(3)
        output = model(batch.inputs)["what"]
        losses = how(output)
        sum(losses.values()).backward()
        return losses, [p.grad for p in model.parameters() if p.grad is not None]

    theirs, their_gradients = computed(lambda output: own_forward(detector, output, boxes))
    ours, gradients = computed(
        lambda output: {name: values.mean() for name, values in task.loss_parts(output, boxes).items()}
    )
    for name, loss in ours.items():
        torch.testing.assert_close(loss, theirs[NAMES[name]], rtol=1e-5, atol=1e-6)
    assert len(gradients) == len(their_gradients)
    torch.testing.assert_close(gradients, their_gradients, rtol=1e-4, atol=1e-5)


def test_detections_are_those_of_torchvision():
    task = detection(score=0.0)
    model, batch = model_of(task).eval(), batch_of()
    detector = model.heads["what"]
    output = model(batch.inputs)["what"]
    images = ImageList(torch.empty(4, 3, SIZE, SIZE), [(SIZE, SIZE)] * 4)
    features = {str(place): level for place, level in enumerate(output.maps)}
    proposals, _ = detector.rpn(images, features)
    theirs, _ = detector.roi_heads(features, proposals, images.image_sizes)
    for found, wanted in zip(task.condensed(output), theirs, strict=True):
        assert len(found["scores"]) > 0
        torch.testing.assert_close(found["boxes"], wanted["boxes"])
        torch.testing.assert_close(found["scores"], wanted["scores"])
        assert torch.equal(found["labels"] + 1, wanted["labels"])


def test_an_image_has_its_loss_whatever_others_are_in_the_batch():
    task = detection(regions=10_000)
    model, batch = model_of(task).train(), batch_of((2, 1, 4))
    detector = model.heads["what"]
    detector.rpn.fg_bg_sampler.batch_size_per_image = 10_000  # all anchors, so that nothing is drawn
    detector.rpn.fg_bg_sampler.positive_fraction = detector.roi_heads.fg_bg_sampler.positive_fraction = 1.0
    output, boxes = model(batch.inputs)["what"], batch.targets["what"]
    together = task.entries(output, boxes)
    for row in range(3):
        rows = torch.tensor([row])
        alone = task.entries(output.select(rows), boxes.select(rows))
        torch.testing.assert_close(alone[0], together[row])


def test_boxes_that_are_ignored_are_not_learned():
    task = detection()
    model, batch = model_of(task).train(), batch_of((2,))
    boxes = batch.targets["what"]
    ignored = Boxes(boxes.boxes, boxes.classes, torch.ones(2, dtype=torch.bool), boxes.counts)
    nothing = Boxes(boxes.boxes[:0], boxes.classes[:0], boxes.ignored[:0], torch.tensor([0]))
    output = model(batch.inputs)["what"]
    losses = []
    for each in (ignored, nothing, boxes):
        torch.manual_seed(0)
        losses.append(task.entries(output, each))
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
