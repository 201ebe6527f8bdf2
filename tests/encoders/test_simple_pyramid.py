import pytest
import torch

from polytask import MultiTaskModel, UserError
from polytask.encoders import Timm
from polytask.encoders.simple_pyramid import SimplePyramid
from polytask.features import Features, FeatureShape
from polytask.shapes import ImageShape
from polytask.tasks import Classification, Segmentation


@pytest.mark.parametrize(
    ("stride", "strides"), [(16, [4, 8, 16, 32]), (14, [7, 14, 28]), (4, [1, 2, 4, 8]), (7, [7, 14])]
)
def test_maps_have_the_strides_that_they_say(stride, strides):
    grid = (4, 6)
    pyramid = SimplePyramid(FeatureShape("tokens", 16, stride, grid=grid, prefix=2))
    found = pyramid(Features(torch.randn(3, 26, 16)))
    shapes, maps = (*pyramid.shape.levels, pyramid.shape), (*found.levels, found.values)
    assert [shape.stride for shape in shapes] == strides
    for shape, each in zip(shapes, maps, strict=True):
        assert each.shape == (3, shape.width, grid[0] * stride // shape.stride, grid[1] * stride // shape.stride)


def test_a_patch_stays_where_it_is():
    pyramid = SimplePyramid(FeatureShape("tokens", 8, 16, grid=(2, 3), prefix=1))
    tokens = torch.randn(1, 7, 8, requires_grad=True)
    pyramid(Features(tokens)).levels[-1][0, :, 1, 0].square().sum().backward()
    assert tokens.grad[0].abs().sum(1).nonzero().flatten().tolist() == [1 + 3], "second line, first patch"


def test_a_vision_transformer_serves_tasks_that_read_maps():
    shape = ImageShape(3, 32, 48)
    encoder = Timm("vit_tiny_patch16_224", shape=shape)
    tasks = [Segmentation("where", classes=3, width=8, image_size=[32, 48]), Classification("what", classes=2)]
    model = MultiTaskModel({"image": encoder}, tasks)
    outputs = model({"image": torch.randn(2, 3, 32, 48)})
    assert outputs["where"].shape == (2, 3, 32, 48) and outputs["what"].shape == (2, 2)
    outputs["where"].sum().backward()
    assert all(p.grad is not None for p in model.trunk.parameters())
    assert model.heads["where"][0].shape.stride == 32


def test_tokens_that_are_no_patches_are_refused():
    from polytask.encoders import Transformer
    from polytask.shapes import TextShape

    encoder = Transformer(16, 1, heads=2, shape=TextShape(50, 12))
    with pytest.raises(UserError, match="reads maps, but .* gives tokens"):
        MultiTaskModel({"text": encoder}, [Segmentation("where", classes=3)])
