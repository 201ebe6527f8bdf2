import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask import encoders
from polytask.encoders import LSTM, TCN, Features, SeriesTransformer
from polytask.encoders.recurrent import LastStates
from polytask.encoders.series_embedding import SeriesEmbedding
from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.shapes import SequenceShape
from polytask.tasks import Classification

from .cases import CASES, SERIES, Case, series

LENGTHS = [9, 1, 4, 6]


@pytest.fixture(params=[name for name, case in CASES.items() if case.shape is SERIES])
def series_case(request: pytest.FixtureRequest) -> Case:
    """Each encoder of series in turn."""
    return CASES[request.param]


def made(lengths: list[int] = LENGTHS) -> dict[str, torch.Tensor]:
    return series(lengths, torch.Generator().manual_seed(1))


def test_steps_of_padding_change_nothing(series_case):
    encoder, inputs = series_case.build().eval(), made()
    more = {"values": F.pad(inputs["values"], (0, 0, 0, 20)), "mask": F.pad(inputs["mask"], (0, 20))}
    with torch.no_grad():
        torch.testing.assert_close(encoder(more).values, encoder(inputs).values, rtol=1e-4, atol=1e-5)


def test_what_stands_in_the_padding_changes_nothing(series_case):
    encoder, inputs = series_case.build().eval(), made()
    other = inputs["values"].where(inputs["mask"].unsqueeze(2), torch.tensor(7.0)).requires_grad_()
    found = encoder({"values": other, "mask": inputs["mask"]}).values
    torch.testing.assert_close(found, encoder(inputs).values, rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    assert other.grad[~inputs["mask"]].abs().max() == 0
    assert other.grad[inputs["mask"]].any(dim=1).sum() > len(LENGTHS)


def test_the_order_of_the_steps_counts(series_case):
    encoder, inputs = series_case.build().eval(), made([8])
    turned = {"values": inputs["values"].flip(1), "mask": inputs["mask"]}
    assert not torch.allclose(encoder(inputs).values, encoder(turned).values, atol=1e-4)


def test_lstm_is_pytorchs_own_on_each_series_alone():
    encoder, inputs = LSTM(dim=4, hidden=5, depth=2, dropout=0.0, shape=SERIES).eval(), made()
    found = encoder(inputs).values
    layers = [encoder.stages[name].module for name in ("layer1", "layer2")]
    for row, length in enumerate(LENGTHS):
        states = encoder.stages["embed"].module(inputs["values"][row : row + 1, :length])
        for layer in layers:
            assert isinstance(layer, nn.LSTM)
            states, _ = layer(states)
        torch.testing.assert_close(found[row], states[0, -1], rtol=1e-4, atol=1e-5)


def test_both_directions_end_at_their_own_ends():
    values = torch.randn(2, 4, 6)
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    found = LastStates(3, bidirectional=True)(Features(values, mask)).values
    expected = [torch.cat([values[row, last, :3], values[row, 0, 3:]]) for row, last in ((0, 2), (1, 3))]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize(("kernel", "depth"), [(2, 1), (3, 2), (5, 3)])
def test_a_causal_step_sees_the_steps_before_it_as_far_as_is_said(kernel, depth):
    reach = 1 + 2 * (kernel - 1) * (2**depth - 1)
    encoder = TCN(dim=4, depth=depth, kernel=kernel, pooling="last", dropout=0.0, shape=SequenceShape(1)).eval()
    values = torch.randn(1, reach + 3, 1, requires_grad=True)
    stages = [encoder.stages[name] for name in encoder.stage_names[:-1]]
    features: object = {"values": values, "mask": torch.ones(1, reach + 3, dtype=torch.bool)}
    for stage in stages:
        features = stage(features)
    assert isinstance(features, Features)
    features.values[0, -2].sum().backward()
    seen = values.grad[0, :, 0].nonzero().flatten()
    assert seen.max() == reach + 1, "the step itself is the last one but one"
    assert seen.min() == 2


def test_a_block_is_the_papers_formula():
    encoder = TCN(dim=2, depth=2, kernel=2, dropout=0.0, normalization="none", shape=SequenceShape(1)).eval()
    block = encoder.stages["block2"]
    values = torch.randn(1, 6, 2)
    found = block(Features(values, torch.ones(1, 6, dtype=torch.bool))).values
    first, second = block.module

    def convolved(convolution: nn.Conv1d, given: torch.Tensor) -> torch.Tensor:
        rows = []
        for t in range(6):
            early = given[t - 2] if t >= 2 else torch.zeros(2)
            rows.append(convolution.weight[:, :, 0] @ early + convolution.weight[:, :, 1] @ given[t] + convolution.bias)
        return F.relu(torch.stack(rows))

    expected = F.relu(values[0] + convolved(second, convolved(first, values[0])))
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


def test_both_ways_is_the_same_backwards_with_turned_kernels():
    encoder = TCN(dim=3, depth=2, kernel=3, causal=False, shape=SequenceShape(2)).eval()
    values, mask = torch.randn(1, 9, 2), torch.ones(1, 9, dtype=torch.bool)
    expected = encoder({"values": values, "mask": mask}).values
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.Conv1d):
                module.weight.copy_(module.weight.flip(2))
    torch.testing.assert_close(encoder({"values": values.flip(1), "mask": mask}).values, expected)


def test_patches_are_steps_side_by_side():
    stage = SeriesEmbedding(SequenceShape(2), 3, dropout=0.0, patch=2)
    values = torch.arange(10.0).view(1, 5, 2)
    mask = torch.tensor([[True, True, True, False, False]])
    found = stage({"values": values, "mask": mask})
    assert found.mask.tolist() == [[True, True, False]]
    torch.testing.assert_close(found.values[0, 0], stage.module(torch.tensor([0.0, 1.0, 2.0, 3.0])))
    torch.testing.assert_close(found.values[0, 1], stage.module(torch.tensor([4.0, 5.0, 0.0, 0.0])))


def test_there_are_as_many_positions_as_patches_of_the_longest_series():
    encoder = SeriesTransformer(dim=8, heads=2, patch=5, shape=SequenceShape(1, length=16))
    assert encoder.stages["embed"].positions.shape == (4, 8)


@pytest.mark.parametrize("name", ["lstm", "tcn", "series_transformer"])
def test_it_learns_where_in_a_series_a_bump_is(name):
    torch.manual_seed(0)
    steps = torch.arange(24.0)
    places = torch.randint(4, 20, (96,))
    values = 0.3 * torch.randn(96, 24) + 3 * (-((steps - places.unsqueeze(1)) ** 2) / 4).exp()
    inputs = {"values": values.unsqueeze(2), "mask": torch.ones(96, 24, dtype=torch.bool)}
    target = (places >= 12).long()
    parameters = {"patch": 4} if name == "series_transformer" else {}
    encoder = encoders.create(name, dim=16, shape=SequenceShape(1, 24), dropout=0.0, **parameters)
    task = Classification("late", classes=2)
    head = task.make_head(FeatureShape("vector", encoder.shape.width))
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = task.loss(head(encoder(inputs).values), target, None)
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * math.log(2)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("lstm", {"cell": "rnn"}, "'cell' must be one of 'lstm', 'gru'"),
        ("lstm", {"hidden": 0}, "'hidden' must be at least 1"),
        ("lstm", {"pooling": "first"}, "'pooling' must be one of"),
        ("tcn", {"kernel": 1}, "'kernel' must be at least 2"),
        ("tcn", {"kernel": 4, "causal": False}, "'kernel' must be odd"),
        ("tcn", {"normalization": "weight"}, "'normalization' must be one of"),
        ("series_transformer", {"patch": 0}, "'patch' must be at least 1"),
        ("series_transformer", {"dim": 6, "heads": 4}, "'heads' must divide 'dim'"),
        ("series_transformer", {"dim": 9, "heads": 3, "positions": "sinusoidal"}, "needs an even 'dim'"),
    ],
)
def test_bad_parameters_are_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        encoders.create(name, **parameters, shape=SERIES)
