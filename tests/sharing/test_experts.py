import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from polytask.encoders.encoder import Encoder, Stage
from polytask.features import Features, FeatureShape
from polytask.sharing.experts import MLPExperts, MLPKind, StageKind, mixture
from polytask.sharing.mixing import weighted_sum


def one_by_one(experts, hidden, inputs):
    """Each expert of a group as a network of its own."""
    found = []
    for number in range(experts.count):
        own = slice(number * hidden[0], (number + 1) * hidden[0])
        values = torch.relu(inputs @ experts.first.weight[own].T + experts.first.bias[own])
        for layer in experts.later:
            values = torch.relu(values @ layer.weight[number] + layer.bias[number])
        found.append(values)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("hidden", [[5], [5, 3], [4, 6, 2]])
def test_perceptrons_computed_together_are_those_computed_one_by_one(hidden):
    torch.manual_seed(0)
    experts, inputs = MLPExperts(7, hidden, 3), torch.randn(4, 7)
    found = experts(Features(inputs)).values
    assert found.shape == (4, 3, hidden[-1])
    torch.testing.assert_close(found, one_by_one(experts, hidden, inputs))
    size = 7 * hidden[0] + hidden[0] + sum(m * n + n for m, n in pairwise(hidden))
    assert sum(p.numel() for p in experts.parameters()) == 3 * size


def test_the_first_layer_of_all_perceptrons_is_one_linear_map():
    experts = MLPExperts(7, [5, 5], 3)
    assert isinstance(experts.first, nn.Linear)
    assert experts.first.weight.shape == (15, 7)
    assert [tuple(p.shape) for p in experts.later.parameters()] == [(3, 5, 5), (3, 1, 5)]


def test_each_layer_starts_at_the_scale_of_its_own_inputs():
    torch.manual_seed(0)
    experts = MLPExperts(200, [100, 50], 8)
    assert experts.first.weight.std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    assert experts.later[0].weight.std().item() == pytest.approx((2 / 100) ** 0.5, rel=0.02)


def test_perceptrons_read_the_mean_over_positions_and_no_rows_are_no_trouble():
    experts = MLPExperts(3, [4], 2)
    maps = torch.randn(5, 3, 2, 2)
    torch.testing.assert_close(experts(Features(maps)).values, experts(Features(maps.mean((2, 3)))).values)
    assert experts(Features(torch.ones(0, 3))).values.shape == (0, 2, 4)


@pytest.mark.parametrize("shape", [(5,), (5, 2, 3)])
def test_a_mixture_is_the_weighted_sum(shape):
    torch.manual_seed(0)
    values, weights = torch.randn(4, 3, *shape), torch.rand(4, 3)
    mask = torch.ones(4, 2, dtype=torch.bool)
    found = mixture(Features(values, mask), weights)
    expected = weighted_sum([Features(values[:, number]) for number in range(3)], weights)
    torch.testing.assert_close(found.values, expected.values)
    assert found.mask is mask
    transposed = values.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(mixture(Features(transposed), weights).values, expected.values)


class Convolutions(Encoder):
    modality = "image"

    def __init__(self):
        super().__init__(
            {
                "low": Stage(nn.Conv2d(1, 3, 3), FeatureShape("map", 3)),
                "high": Stage(nn.Conv2d(3, 4, 3), FeatureShape("map", 4)),
                "pool": Stage(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), FeatureShape("vector", 4)),
            }
        )


def test_stage_experts_are_copies_of_the_stages_from_other_numbers():
    torch.manual_seed(0)
    encoder = Convolutions()
    kind = StageKind(encoder, [1])
    assert (kind.levels, kind.width_before(0), kind.shape) == (1, 3, encoder.shape)
    (experts,) = kind.make(0, [2])
    maps = torch.randn(5, 3, 6, 6)
    found = experts(Features(maps)).values
    for number, stages in enumerate(experts.experts):
        torch.testing.assert_close(found[:, number], stages["high"].module(maps).mean((2, 3)))
    first, second = (stages["high"].module.weight for stages in experts.experts)
    assert first is encoder.stages["high"].module.weight
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.flatten().sort().values, second.flatten().sort().values)


def test_stage_experts_of_a_pretrained_encoder_start_alike():
    encoder = Convolutions()
    encoder.pretrained = True
    groups = StageKind(encoder, [1]).make(0, [2, 1])
    weights = [stages["high"].module.weight for experts in groups for stages in experts.experts]
    assert len({id(weight) for weight in weights}) == 3
    assert all(torch.equal(weight, weights[0]) for weight in weights)


def test_levels_of_stages_begin_where_they_are_told_to():
    kind = StageKind(Convolutions(), [1, 2])
    assert (kind.levels, kind.width_before(0), kind.width_before(1)) == (2, 3, 4)
    parts = [part for level in range(2) for part in kind.make(level, [1])[0].parts(["expert 1"], ("a",), "")]
    assert [(part.name, part.depth) for part in parts] == [("expert 1 of high", 1), ("expert 1 of pool", 2)]


def test_perceptrons_of_later_levels_read_what_the_level_before_made():
    kind = MLPKind(7, [5, 3], 2)
    assert [kind.width_before(level) for level in range(2)] == [7, 3]
    assert kind.shape == FeatureShape("vector", 3)
    first, second = kind.make(1, [2, 1])
    assert (first.first.weight.shape, second.first.weight.shape) == ((10, 3), (5, 3))


def test_experts_can_be_copied():
    experts = MLPExperts(3, [4, 2], 2)
    inputs = Features(torch.randn(2, 3))
    torch.testing.assert_close(copy.deepcopy(experts)(inputs).values, experts(inputs).values)
