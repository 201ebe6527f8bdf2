import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.encoders import CNN, VGG, ResNet, Timm
from polytask.errors import UserError
from polytask.shapes import ImageShape
from polytask.tasks.detector import anchor_sizes

from .detecting import HEADS, batch_of, detection, model_of

STRIDES = (4, 8, 16, 32)


@given(st.lists(st.floats(12, 180), min_size=1, max_size=30))
def test_every_box_has_anchors_of_about_its_size(sizes):
    found = [each for (each,) in anchor_sizes(None, sizes, STRIDES)]
    assert found == sorted(found)
    assert all(min(max(size / each, each / size) for each in found) < 2.01 for size in sizes)


def test_anchors_go_as_far_as_the_boxes_do():
    assert anchor_sizes(None, [3.0, 700.0], STRIDES) == [[pytest.approx(3.0)], [32.0], [64.0], [pytest.approx(700.0)]]
    assert anchor_sizes(None, [], STRIDES) == [[32.0], [64.0], [128.0], [256.0]]


def test_several_anchors_lie_evenly_around_the_one():
    (three,) = anchor_sizes(None, [32.0], (8,), scales=3)
    assert three[1] == pytest.approx(32.0)
    assert three[1] / three[0] == pytest.approx(three[2] / three[1]) == pytest.approx(2 ** (1 / 3))


@pytest.mark.parametrize("anchors", [[[8.0]], [[8.0]] * 3 + [[8.0, 9.0]], [[]] * 4])
def test_given_anchors_have_to_fit_the_maps(anchors):
    with pytest.raises(UserError, match="the pyramid has 4 maps, of the strides 4, 8, 16, 32"):
        anchor_sizes(anchors, (), STRIDES)
    assert anchor_sizes([[8.0]] * 4, (), STRIDES) == [[8.0]] * 4


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "encoder",
    [
        lambda shape: CNN(8, 2, shape=shape),
        lambda shape: ResNet(18, shape=shape),
        lambda shape: VGG(11, shape=shape),
        lambda shape: Timm("resnet10t", shape=shape),
    ],
)
def test_every_encoder_with_maps_of_several_sizes_will_do(head, encoder):
    shape = ImageShape(3, 32, 32)
    model, batch = model_of(detection(head=head), encoder(shape)).train(), batch_of((1, 2))
    detector = model.heads["what"]
    output = model(batch.inputs)["what"]
    assert [32 // each.shape[2] for each in output.maps if each.shape[2] > 1] == [
        stride for stride, each in zip(detector.strides, output.maps, strict=True) if each.shape[2] > 1
    ]
    model.losses(batch)["what"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.heads.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_an_image_whose_sides_are_no_multiples_of_a_stride(head):
    task = detection(head=head, image_size=(35, 45), score=0.0)
    model = model_of(task, CNN(8, 3, shape=ImageShape(3, 35, 45))).eval()
    found = task.condensed(model({"image": torch.randn(1, 3, 35, 45)})["what"])[0]["boxes"]
    assert len(found) and (found >= 0).all() and (found[:, [0, 2]] <= 45).all() and (found[:, [1, 3]] <= 35).all()
    assert model.heads["what"].size_of(model({"image": torch.randn(1, 3, 64, 64)})["what"]) == (64, 64)


@pytest.mark.parametrize("head", HEADS)
def test_autocast_computes_the_losses_in_full_precision(head):
    model, batch = model_of(detection(head=head)).train(), batch_of((1, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.losses(batch)["what"]
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.heads.parameters())
