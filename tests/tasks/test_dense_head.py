import pytest
import torch

from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.tasks.dense_head import DenseHead

LEVELS = tuple(FeatureShape("map", width, stride) for width, stride in ((6, 2), (8, 4), (12, 8)))
SHAPE = FeatureShape("map", 20, 16, LEVELS)


def head_of(decoder="fpn", shape=SHAPE, stride=None, size=(34, 50), **more):
    torch.manual_seed(0)
    given = {"width": 16, "dropout": 0.0, "task": "t", **more}
    return DenseHead(shape, 3, decoder=decoder, stride=stride, size=size, **given)


def features(rows=2, size=(34, 50)):
    torch.manual_seed(1)
    maps = [torch.randn(rows, s.width, -(-size[0] // s.stride), -(-size[1] // s.stride)) for s in (*LEVELS, SHAPE)]
    return Features(maps[-1], levels=tuple(maps[:-1]))


@pytest.mark.parametrize("decoder", ["fpn", "unet", "deeplab"])
@pytest.mark.parametrize("stride", [None, 2, 8, 64])
def test_every_map_from_the_finest_wanted_on_is_read_and_rows_are_apart(decoder, stride):
    head, given = head_of(decoder, stride=stride), features()
    for each in (*given.levels, given.values):
        each.requires_grad_()
    output = head(given)
    assert output.shape == (2, 3, 34, 50)
    output[0].sum().backward()
    finest = stride or {"fpn": 4, "unet": 1, "deeplab": 4}[decoder]
    maps = (*given.levels, given.values)
    expected = [each.stride >= finest for each in (*LEVELS, SHAPE)]
    if decoder == "deeplab" and sum(expected) > 1:
        expected = [place == expected.index(True) or place == 3 for place in range(4)]
    if not any(expected):
        expected[-1] = True
    assert [each.grad is not None for each in maps] == expected
    assert all((each.grad[1] == 0).all() for each in maps if each.grad is not None), "rows do not see each other"


@pytest.mark.parametrize("decoder", ["fpn", "unet", "deeplab"])
def test_an_encoder_of_one_map_is_enough(decoder):
    head = head_of(decoder, FeatureShape("map", 20, 16), size=None)
    assert head(Features(torch.randn(1, 20, 2, 3))).shape == (1, 3, 32, 48)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"decoder": "mask"}, "no head 'mask'"),
        ({"width": 0}, "width is 0"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"stride": 0}, "stride is 0"),
    ],
)
def test_wrong_parameters_are_named(more, message):
    with pytest.raises(UserError, match=message):
        head_of(**more)
