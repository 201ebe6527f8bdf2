"""The protocol of stages."""

import pytest
import torch
from torch import nn

from polytask.encoders import Encoder, Features, FeatureShape, Stage
from polytask.errors import UserError


def chain() -> Encoder:
    vector = FeatureShape("vector", 2)
    return Encoder({name: Stage(nn.Linear(2, 2), vector) for name in ("embed", "layer1", "layer2")})


def test_stages_run_in_order():
    encoder = chain()
    x = torch.randn(3, 2)
    expected = x
    for name in ("embed", "layer1", "layer2"):
        expected = encoder.stages[name].module(expected)
    assert torch.equal(encoder(x).values, expected)
    assert encoder.stage_names == ("embed", "layer1", "layer2")
    assert encoder.shape == FeatureShape("vector", 2)


@pytest.mark.parametrize(("stage", "depth"), [(None, 3), ("embed", 1), ("layer2", 3), (0, 0), (2, 2), (-1, 2), (-3, 0)])
def test_depth_of_counts_stages(stage, depth):
    assert chain().depth_of(stage) == depth


def test_depth_of_an_unknown_stage_suggests_the_closest():
    with pytest.raises(UserError, match=r"no stage 'layr1'.*Did you mean 'layer1'.*'embed', 'layer1', 'layer2'"):
        chain().depth_of("layr1")


@pytest.mark.parametrize("number", [4, -4])
def test_depth_of_too_many_stages_says_how_many_there_are(number):
    with pytest.raises(UserError, match=f"{number} stages were asked for, but the encoder has 3"):
        chain().depth_of(number)


def test_select_takes_rows_of_values_and_mask():
    features = Features(torch.arange(6.0).view(3, 2, 1), torch.tensor([[1, 1], [1, 0], [1, 1]]).bool())
    rows = torch.tensor([2, 0])
    selected = features.select(rows)
    assert torch.equal(selected.values, features.values[rows])
    assert torch.equal(selected.mask, features.mask[rows])
    assert features.select(None) is features
    assert Features(features.values).select(rows).mask is None


def test_stage_passes_the_mask_by():
    mask = torch.ones(3, 2, dtype=torch.bool)
    stage = Stage(nn.Linear(2, 2), FeatureShape("tokens", 2))
    assert stage(Features(torch.randn(3, 2, 2), mask)).mask is mask


def test_reload_parameters_are_a_copy_by_default():
    parameters = {"width": 3}
    again = chain().for_reload(parameters)
    assert again == parameters
    assert again is not parameters
