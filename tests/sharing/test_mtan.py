from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask import sharing
from polytask.encoders.encoder import Encoder, Stage
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.sharing.mtan import Extractor

from ..encoders.cases import CASES
from .fitting import Data, Dense, error_of

TASKS = ["age", "type", "values"]
WIDTHS = [6, 5, 3]
TRUNK = 4 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3


def trunk_of(encoder, tasks=TASKS, **parameters):
    return sharing.MTAN(**parameters).build({"x": encoder}, tasks)


def moved(trunk):
    """In evaluation, with statistics, scales and shifts that are not those of the start."""
    with torch.no_grad():
        for module in trunk.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
                for tensor in (*module.parameters(), *module.buffers()):
                    if tensor.is_floating_point():
                        tensor.add_(0.5 * torch.rand_like(tensor))
    return trunk.eval()


def normalised(norm, values):
    """Batch normalisation in evaluation, of `[..., C]`."""
    return (values - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def mask_of(attention, given):
    """σ(h(g(.))), of `[..., C]`."""
    first, norm, _, second, last_norm, _ = attention.attend
    hidden = normalised(norm, given @ first.weight.flatten(1).T).relu()
    return normalised(last_norm, hidden @ second.weight.flatten(1).T).sigmoid()


def test_a_tasks_features_are_its_masks_times_what_the_trunk_computes(encoder):
    trunk = moved(trunk_of(encoder, reduction=2))
    inputs = torch.randn(5, 4)
    found = trunk({"x": inputs}, TASKS, {}).features
    for task in TASKS:
        shared, attended = inputs, None
        for name, stage in encoder.stages.items():
            shared = stage.module(shared)
            given = shared
            if attended is not None:
                linear, norm, _ = trunk.extractors[name].extract
                given = torch.cat([shared, normalised(norm, attended @ linear.weight.T).relu()], dim=1)
            attended = mask_of(trunk.attention[name][task], given) * shared
        torch.testing.assert_close(found[task].values, attended)
    assert not torch.allclose(found["age"].values, found["type"].values)


def test_on_maps_what_was_attended_to_is_convolved_and_brought_to_the_next_size():
    case = CASES["cnn"]
    encoder = case.build()
    trunk = moved(trunk_of(encoder, reduction=2))
    shared, attended = Features(case.inputs()), None
    for name, stage in list(encoder.stages.items())[:3]:
        shared = stage(shared)
        given = shared.values
        if attended is not None:
            convolution, norm, _ = trunk.extractors[name].extract
            assert convolution.weight.shape[2:] == (3, 3)
            before = F.conv2d(attended, convolution.weight, padding=1).permute(0, 2, 3, 1)
            before = normalised(norm, before).relu().permute(0, 3, 1, 2)
            if name == "conv2":
                assert before.shape[2:] == (5, 5)
            else:
                assert before.shape[2:] == shared.values.shape[2:]
            given = torch.cat([shared.values, before], dim=1)
        mask = mask_of(trunk.attention[name]["age"], given.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        attended = mask * shared.values
    # The vector behind the maps is attended to with the mean of the map before it.
    shared = encoder.stages["pool"](shared).values
    linear, norm, _ = trunk.extractors["pool"].extract
    before = normalised(norm, attended.mean((2, 3)) @ linear.weight.T).relu()
    expected = mask_of(trunk.attention["pool"]["age"], torch.cat([shared, before], dim=1)) * shared
    found = trunk({"x": case.inputs()}, TASKS, {}).features["age"].values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_tokens_are_normalised_one_by_one_and_padding_does_not_count():
    case = CASES["bigru"]
    encoder = case.build().eval()
    trunk = moved(trunk_of(encoder, reduction=1))
    shared, attended = encoder.stages["embed"](case.inputs()), None
    for name in ("embed", "layer1", "layer2"):
        shared = shared if name == "embed" else encoder.stages[name](shared)
        given = shared.values
        if attended is not None:
            linear, norm, _ = trunk.extractors[name].extract
            given = torch.cat([given, norm(attended @ linear.weight.T + linear.bias).relu()], dim=2)
        first, norm, _, second, last_norm, _ = trunk.attention[name]["age"].attend
        hidden = norm(given @ first.weight.T + first.bias).relu()
        attended = last_norm(hidden @ second.weight.T + second.bias).sigmoid() * shared.values
        assert isinstance(norm, nn.LayerNorm)
    values = encoder.stages["pool"](shared).values
    linear, norm, _ = trunk.extractors["pool"].extract
    real = shared.mask.unsqueeze(2)
    mean = (attended * real).sum(1) / real.sum(1)
    before = normalised(norm, mean @ linear.weight.T).relu()
    expected = mask_of(trunk.attention["pool"]["age"], torch.cat([values, before], dim=1)) * values
    torch.testing.assert_close(trunk({"x": case.inputs()}, TASKS, {}).features["age"].values, expected)


VECTOR, MAP, TOKENS = (FeatureShape(kind, 3) for kind in ("vector", "map", "tokens"))
SIZES = {"vector": (2, 3), "map": (2, 3, 4, 6), "tokens": (2, 5, 3)}


@pytest.mark.parametrize("before", [VECTOR, MAP, TOKENS])
@pytest.mark.parametrize("after", [VECTOR, MAP, TOKENS])
@pytest.mark.parametrize("kernel", [1, 3])
def test_any_kind_of_features_can_follow_any_other(before, after, kernel):
    beside = torch.randn(*SIZES[after.kind])
    given = torch.randn(*SIZES[before.kind])
    if before == after == MAP:
        given = torch.randn(2, 3, 9, 7)
    found = Extractor(before, after, kernel)(Features(given), beside)
    assert found.shape == beside.shape
    positions = found.flatten(2).transpose(1, 2) if after == MAP else found
    if after in (MAP, TOKENS) and before != after:
        # Where positions do not correspond, the mean stands at each of them.
        torch.testing.assert_close(positions, positions[:, :1].expand_as(positions))


def test_another_number_of_tokens_is_met_with_their_mean():
    extractor = Extractor(TOKENS, TOKENS, 3)
    given = torch.randn(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    found = extractor(Features(given, mask), torch.randn(2, 5, 3))
    mean = torch.stack([given[0, :2].mean(0), given[1].mean(0)]).unsqueeze(1)
    torch.testing.assert_close(found, extractor.extract(mean).expand(2, 5, 3))


@pytest.mark.parametrize("reduction", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_parameters(encoder, reduction, count):
    trunk = trunk_of(encoder, TASKS[:count], reduction=reduction)
    extractors = sum(a * b + 2 * b for a, b in pairwise(WIDTHS))
    own = 0
    for number, width in enumerate(WIDTHS):
        incoming, hidden = width * (2 if number else 1), max(1, width // reduction)
        own += incoming * hidden + 2 * hidden + hidden * width + 2 * width
    assert sum(p.numel() for p in trunk.parameters()) == TRUNK + extractors + count * own
    assert sum(p.numel() for p in trunk.shared_parameters()) == (TRUNK + extractors if count > 1 else 0)


def test_a_smaller_kernel_has_a_ninth_of_the_convolutions_parameters():
    def size(kernel):
        trunk = trunk_of(CASES["cnn"].build(), kernel=kernel)
        return [e.extract[0].weight.numel() for e in trunk.extractors.values()]

    *small, last_small = size(1)
    *large, last_large = size(3)
    assert [9 * each for each in small] == large
    assert last_small == last_large


def test_open_attention_is_hard_sharing(encoder):
    trunk = trunk_of(encoder).eval()
    with torch.no_grad():
        for by_task in trunk.attention.values():
            for attention in by_task.values():
                attention.attend[4].weight.zero_()
                attention.attend[4].bias.fill_(100.0)
    inputs = torch.randn(5, 4)
    for features in trunk({"x": inputs}, TASKS, {}).features.values():
        torch.testing.assert_close(features.values, encoder(inputs).values)


def test_the_trunk_runs_once_and_attention_on_each_tasks_rows(encoder):
    trunk = trunk_of(encoder)
    calls, seen = [], []
    for name, stage in encoder.stages.items():
        stage.register_forward_hook(lambda _, given, found, name=name: calls.append((name, len(found.values))))
        for task in TASKS:
            module = trunk.attention[name][task]
            module.register_forward_hook(lambda _, given, found, task=task: seen.append((task, len(found))))
    rows = {"type": torch.tensor([4, 2]), "values": None}
    trunk({"x": torch.randn(5, 4)}, ["type", "values"], rows)
    assert calls == [("bottom", 5), ("middle", 5), ("top", 5)]
    assert seen == [("type", 2), ("values", 5)] * 3
    assert trunk({"x": torch.randn(5, 4)}, [], {}).features == {}


def test_a_single_row_can_be_trained_on(encoder):
    trunk = trunk_of(encoder).train()
    found = trunk({"x": torch.randn(5, 4)}, TASKS, {"age": torch.tensor([3])}).features["age"].values
    assert found.shape == (1, 3)
    assert found.isfinite().all()


def test_how_open_attention_is_is_reported_for_recent_batches(encoder):
    trunk = trunk_of(encoder, TASKS[:2])
    with torch.no_grad():
        trunk.attention["top"]["age"].attend[4].weight.zero_()
        trunk.attention["top"]["age"].attend[4].bias.fill_(100.0)
    inputs = torch.randn(5, 4)
    trunk.eval()({"x": inputs}, TASKS[:2], {})
    assert trunk.learned()["attention"].values.eq(0.5).all()
    trunk.train()({"x": inputs}, ["age"], {})
    table = trunk.learned()["attention"]
    assert (table.rows, table.columns) == (("age", "type"), ("bottom", "middle", "top"))
    assert table.values[0, 2].item() == pytest.approx(0.55)
    assert table.values[1].eq(0.5).all()
    for _ in range(100):
        trunk({"x": inputs}, ["age"], {})
    assert trunk.learned()["attention"].values[0, 2].item() == pytest.approx(1.0, abs=1e-3)


def test_what_is_new_learns_where_stages_are_frozen(encoder):
    trunk = trunk_of(encoder)
    for _, _, stage in trunk.stages():
        stage.requires_grad_(False)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(p.requires_grad for p in (*trunk.attention.parameters(), *trunk.extractors.parameters()))


class _Patches(Stage):
    """A map to tokens."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 2, stride=2), FeatureShape("map", 4))


class _ToTokens(Stage):
    def __init__(self):
        super().__init__(nn.Linear(4, 6), FeatureShape("tokens", 6))

    def forward(self, features):
        return Features(self.module(features.values.flatten(2).transpose(1, 2)))


class _Mean(Stage):
    def __init__(self):
        super().__init__(nn.Identity(), FeatureShape("vector", 6))

    def forward(self, features):
        return Features(features.values.mean(1))


class _MapThenTokens(Encoder):
    modality = "image"

    def __init__(self):
        super().__init__({"patches": _Patches(), "tokens": _ToTokens(), "mean": _Mean()})


def test_an_encoder_may_go_from_maps_to_tokens():
    trunk = trunk_of(_MapThenTokens())
    found = trunk({"x": torch.randn(3, 1, 8, 8)}, TASKS, {}).features
    assert all(features.values.shape == (3, 6) for features in found.values())


def _gated(rows, seed):
    """Which sign a column has, and how much of it is seen, is up to other columns, for each task others."""
    inputs = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))
    return Data(
        inputs,
        {
            f"task{k}": inputs[:, k] * torch.sigmoid(4 * inputs[:, (k + 1) % 3]) * inputs[:, 3 + k].sign()
            for k in range(3)
        },
    )


def test_attention_helps_more_than_as_many_parameters_in_the_trunk():
    train, test = _gated(400, seed=1), _gated(1000, seed=101)
    mtan = error_of(sharing.MTAN(reduction=1), (6, 16), train, test, steps=150)
    same = error_of(sharing.Hard(), (6, 16), train, test, steps=150)
    wide = error_of(sharing.Hard(), (6, 432), train, test, steps=150)
    trunks = trunk_of(Dense(6, 16), reduction=1), Dense(6, 432)
    sizes = [sum(p.numel() for p in trunk.parameters()) for trunk in trunks]
    assert sizes[0] == sizes[1]
    assert mtan < 0.7 * same
    assert mtan < 0.85 * wide


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"reduction": 0}, "mtan: reduction is 0, but must be at least 1"),
        ({"kernel": 5}, "mtan: kernel is 5, but must be 1 or 3"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        sharing.MTAN(**parameters)
