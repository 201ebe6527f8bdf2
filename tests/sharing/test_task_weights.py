"""A task's changes of shared weights, whatever layer the weights are of and however it uses them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask.encoders.encoder import Stage
from polytask.features import Features, FeatureShape
from polytask.sharing.bitfit import Offset, biases
from polytask.sharing.lora import LowRank, low_rank_weights
from polytask.sharing.task_weights import TaskWeights


class Layer(Stage):
    """A layer whose inputs and outputs may be more than one tensor."""

    def __init__(self, module, call=None):
        super().__init__(module, FeatureShape("vector", 1))
        self.call = call or (lambda module, values: module(values))

    def forward(self, features):
        return Features(self.call(self.module, features))


def transposed_1d():
    from transformers.pytorch_utils import Conv1D

    return Conv1D(5, 4)


class ByFunction(nn.Module):
    """Gives a layer's weight to a function instead of calling the layer, as BEiT and Swin v2 do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 5)

    def forward(self, values):
        return F.linear(values, weight=2 * self.linear.weight, bias=self.linear.bias)


def attend(module, values):
    return module(values, values, values, need_weights=False)[0]


def cross(module, values):
    return module(values, values[..., :3], values[..., :2], need_weights=False)[0]


LAYERS = {
    "linear": (lambda: nn.Linear(4, 5), (3, 4), None),
    "linear-of-tokens": (lambda: nn.Linear(4, 5, bias=False), (3, 6, 4), None),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding="same"), (2, 4, 7), None),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2), (2, 4, 9, 8), None),
    "conv2d-circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 5, 5), None),
    "conv2d-groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5), None),
    "conv2d-depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 5, 5), None),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 3, 3, 3), None),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 3, 3), None),
    "gpt2": (transposed_1d, (2, 3, 4), None),
    "by-function": (ByFunction, (3, 4), None),
    "gru": (lambda: nn.GRU(4, 3, 2, batch_first=True, bidirectional=True), (2, 5, 4), lambda m, v: m(v)[0]),
    "lstm": (lambda: nn.LSTM(4, 3, proj_size=2), (2, 5, 4), lambda m, v: m(v)[0]),
    "attention": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), (2, 5, 4), attend),
    "cross-attention": (lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=2, add_bias_kv=True), (2, 5, 4), cross),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), (2, 5, 4), None),
    "embedding": (lambda: nn.Embedding(9, 4, padding_idx=1), 9, None),
}

layers = pytest.mark.parametrize("name", LAYERS)


def stage_of(name):
    torch.manual_seed(0)
    make, size, call = LAYERS[name]
    inputs = torch.randint(size, (3, 6)) if isinstance(size, int) else torch.randn(size)
    stage = Layer(make(), call).double()
    return stage, inputs if isinstance(size, int) else inputs.double()


def low_rank(stage, rank=2, scale=0.7, dropout=0.0):
    changes = {
        name: LowRank(weight, rank, scale, dropout) for name, weight in low_rank_weights(stage, embeddings=True).items()
    }
    for name, change in changes.items():
        nn.init.normal_(change.up)
        padding = getattr(stage.get_submodule(name.rpartition(".")[0]), "padding_idx", None)
        if padding is not None:
            nn.init.zeros_(change.up[padding])  # and there it stays, as it gets no gradient
    return TaskWeights(changes)


def with_weights(stage, weights):
    """The same stage with other weights."""
    other = copy.deepcopy(stage)
    with torch.no_grad():
        for name, weight in weights.items():
            other.get_parameter(name).copy_(weight)
    return other


def names_of(stage, embeddings=True):
    return list(low_rank_weights(stage, embeddings=embeddings))


@layers
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("times", [1, 40])  # with many rows the weight is made, with few it is not
def test_a_layer_computes_with_the_changed_weights(name, frozen, times):
    stage, inputs = stage_of(name)
    inputs = inputs.repeat(times, *[1] * (inputs.ndim - 1))
    stage.requires_grad_(not frozen)
    own = low_rank(stage)
    names = names_of(stage)
    weights = {
        name: stage.get_parameter(name) + (change.scale * change.up @ change.down).view_as(stage.get_parameter(name))
        for name, change in zip(names, own.changes.values(), strict=True)
    }
    expected = with_weights(stage, weights).requires_grad_()
    found, wanted = own(stage, inputs).values, expected(inputs).values
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, stage(inputs).values)
    # The gradients of the factors follow from the gradient of the weight.
    direction = torch.randn_like(found)
    found.backward(direction)
    wanted.backward(direction)
    for key, change in zip(names, own.changes.values(), strict=True):
        gradient = expected.get_parameter(key).grad.flatten(1)
        torch.testing.assert_close(change.up.grad, change.scale * gradient @ change.down.T)
        torch.testing.assert_close(change.down.grad, change.scale * change.up.T @ gradient)
        shared = stage.get_parameter(key)
        if frozen:
            assert shared.grad is None
        else:
            torch.testing.assert_close(shared.grad, expected.get_parameter(key).grad)


@layers
def test_training_and_evaluation_agree(name):
    """PyTorch's attention and transformer layers take other ways in evaluation, which must see the changes too."""
    stage, inputs = stage_of(name)
    own = low_rank(stage)
    expected = own(stage.train(), inputs).values
    with torch.no_grad():
        torch.testing.assert_close(own(stage.eval(), inputs).values, expected)


@pytest.mark.parametrize("adapt", [low_rank, lambda s: TaskWeights({n: Offset(b) for n, b in biases(s).items()})])
def test_a_whole_encoder_of_pytorch_with_padding_agrees_too(adapt):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    padded = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    stage = Layer(nn.TransformerEncoder(layer, 2), lambda m, v: m(v, src_key_padding_mask=padded))
    own, inputs = adapt(stage), torch.randn(2, 5, 4)
    for parameter in own.parameters():
        nn.init.normal_(parameter)
    expected = own(stage.train(), inputs).values[~padded]
    with torch.no_grad():
        torch.testing.assert_close(own(stage.eval(), inputs).values[~padded], expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(stage(inputs).values[~padded], expected, atol=0.1)


@layers
def test_the_stage_stays_as_it_is(name):
    stage, inputs = stage_of(name)
    expected, state = stage(inputs).values, copy.deepcopy(stage.state_dict())
    low_rank(stage)(stage, inputs)
    torch.testing.assert_close(stage.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close(stage(inputs).values, expected, rtol=0, atol=0)


def test_after_an_error_the_weights_are_the_shared_ones_again():
    stage, inputs = stage_of("linear")
    own = low_rank(stage)
    with pytest.raises(RuntimeError):
        own(stage, inputs[:, :2])
    torch.testing.assert_close(F.linear(inputs, stage.module.weight, stage.module.bias), stage(inputs).values)


def test_a_change_starts_at_zero_with_a_random_first_factor():
    weight = nn.Linear(100, 50).weight
    torch.manual_seed(0)
    change = LowRank(weight, 4, 2.0)
    assert change.up.eq(0).all()
    torch.testing.assert_close(change.changed(weight), weight)
    # Uniform up to 1 / sqrt(in), as in the authors' code.
    assert 0.09 < change.down.abs().max() <= 0.1
    assert change.down.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.1)


@pytest.mark.parametrize("name", ["linear", "conv2d-groups"])
def test_dropout_is_of_what_enters_the_first_factor(name):
    stage, inputs = stage_of(name)
    own = low_rank(stage, dropout=0.5)
    weight = "module.weight"
    (change,) = own.changes.values()
    inputs = inputs.repeat(40, *[1] * (inputs.ndim - 1))
    torch.manual_seed(3)
    found = own(stage, inputs).values
    torch.manual_seed(3)
    dropped = F.dropout(inputs, 0.5)
    alone = with_weights(stage, {weight: change.scale * (change.up @ change.down).view_as(stage.module.weight)})
    nn.init.zeros_(alone.module.bias)
    torch.testing.assert_close(found, stage(inputs).values + alone(dropped).values)
    torch.testing.assert_close(own.eval()(stage, inputs).values, stage(inputs).values + alone(inputs).values)


def test_in_a_recurrent_layer_dropout_leaves_out_features_for_all_positions():
    stage, inputs = stage_of("gru")
    own = low_rank(stage, dropout=0.5)
    weights = {}
    torch.manual_seed(3)
    for name, change in zip(names_of(stage), own.changes.values(), strict=True):
        kept = F.dropout(torch.ones(1, change.down.shape[1], dtype=torch.float64), 0.5)
        assert kept.unique().tolist() in ([0, 2], [0], [2])
        weights[name] = stage.get_parameter(name) + change.scale * change.up @ (change.down * kept)
    torch.manual_seed(3)
    torch.testing.assert_close(own(stage, inputs).values, with_weights(stage, weights)(inputs).values)


def test_an_embeddings_padding_gets_no_gradient():
    stage, _ = stage_of("embedding")
    own = low_rank(stage)
    own(stage, torch.tensor([[1, 2], [1, 1]])).values.sum().backward()
    (change,) = own.changes.values()
    assert change.up.grad[1].eq(0).all()
    assert change.up.grad[2].ne(0).all()


@layers
def test_biases_get_an_offset(name):
    stage, inputs = stage_of(name)
    found = biases(stage)
    assert {key.rpartition(".")[2] for key in found} <= {
        "bias", "in_proj_bias", *(f"bias_{part}_l{layer}{end}" for part in ("ih", "hh") for layer in (0, 1)
                                  for end in ("", "_reverse")),
    }  # fmt: skip
    own = TaskWeights({key: Offset(bias) for key, bias in found.items()})
    torch.testing.assert_close(own(stage, inputs).values, stage(inputs).values)
    for change in own.changes.values():
        nn.init.normal_(change.offset)
    by_name = dict(zip(found, own.changes.values(), strict=True))
    expected = with_weights(stage, {key: bias + by_name[key].offset for key, bias in found.items()})
    torch.testing.assert_close(own(stage, inputs).values, expected(inputs).values)
    if found:
        assert not torch.allclose(own(stage, inputs).values, stage(inputs).values)


def test_norms_biases_are_biases_and_embeddings_are_adapted_on_demand():
    stage = Layer(nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.BatchNorm1d(3)))
    assert list(biases(stage)) == ["module.1.bias", "module.2.bias", "module.3.bias"]
    assert names_of(stage, embeddings=False) == ["module.2.weight"]
    assert names_of(stage) == ["module.0.weight", "module.2.weight"]


def test_a_weight_that_two_layers_have_in_common_is_changed_once():
    linear = nn.Linear(4, 4)
    stage = Layer(nn.Sequential(linear, nn.Tanh(), linear)).double()
    assert names_of(stage) == ["module.0.weight"]
    own, inputs = low_rank(stage), torch.randn(3, 4, dtype=torch.float64)
    (change,) = own.changes.values()
    expected = with_weights(stage, {"module.0.weight": change.changed(linear.weight)})
    torch.testing.assert_close(own(stage, inputs).values, expected(inputs).values)


def test_low_precision_works():
    stage = Layer(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    inputs = torch.randn(6, 4)
    own = low_rank(stage)
    expected = own(stage, inputs).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = own(stage, inputs).values
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
