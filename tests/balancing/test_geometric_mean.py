import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.geometric_mean import GeometricMean
from polytask.errors import UserError


def leaves(*values, dtype=torch.float32):
    return [torch.tensor(value, dtype=dtype, requires_grad=True) for value in values]


def test_the_combined_loss_is_the_geometric_mean():
    assert GeometricMean().combine(torch.tensor([2.0, 4.0, 27.0])).item() == pytest.approx(6)


def test_the_gradients_are_those_of_the_product_to_the_power_of_one_over_k(network, inputs):
    losses = network.losses(inputs)
    (torch.stack(list(losses.values())).prod() ** (1 / 3)).backward()
    expected = network.trunk_gradient()
    network.zero_grad()
    balancer = GeometricMean()
    balancer.backward(network.losses(inputs))
    torch.testing.assert_close(network.trunk_gradient(), expected)
    values = balancer.last.loss_values
    torch.testing.assert_close(balancer.last.weight_values, values.prod() ** (1 / 3) / (3 * values))


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6),
    scale=st.floats(1e-5, 1e5),
    data=st.data(),
)
def test_scaling_a_loss_changes_the_length_of_the_update_alone(values, scale, data):
    which = data.draw(st.integers(0, len(values) - 1))
    scaled = [value * scale if i == which else value for i, value in enumerate(values)]

    def shares(numbers):
        balancer = GeometricMean()
        balancer.backward(leaves(*numbers, dtype=torch.float64))
        shares = balancer.last.weight_values * torch.tensor(numbers, dtype=torch.float64)
        return shares / shares.sum()

    torch.testing.assert_close(shares(scaled), shares(values))


def test_many_great_or_small_losses_neither_overflow_nor_vanish():
    for value in (1e30, 1e-30):
        balancer = GeometricMean()
        balancer.backward(leaves(*[value] * 40))
        assert balancer.last.weight_values.tolist() == pytest.approx([1 / 40] * 40, rel=1e-4)


@pytest.mark.parametrize("bad", [0.0, -3.0])
def test_a_loss_that_is_not_positive_is_left_out_of_the_mean(bad):
    losses = leaves(2.0, bad, 8.0)
    balancer = GeometricMean()
    balancer.backward(losses)
    assert balancer.last.weight_values.tolist() == pytest.approx([1, 0, 0.25])
    assert all(math.isfinite(loss.grad) for loss in losses)


def test_losses_that_are_all_zero_give_zero_gradients():
    losses = leaves(0.0, 0.0)
    GeometricMean().backward(losses)
    assert [loss.grad.item() for loss in losses] == [0, 0]
    assert math.isfinite(GeometricMean().combine(torch.zeros(2)))


def test_one_task_alone_is_its_loss():
    losses = leaves(0.3)
    GeometricMean().backward(losses)
    assert losses[0].grad.item() == pytest.approx(1)


def test_a_scaler_does_not_change_the_weights():
    plain, scaled = GeometricMean(), GeometricMean()
    plain.backward(leaves(2.0, 3.0))
    scaled.backward(leaves(2.0, 3.0), scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    torch.testing.assert_close(scaled.last.weight_values, plain.last.weight_values)


def test_negative_numbers_are_refused_beforehand():
    with pytest.raises(UserError, match="geometric_mean: log_losses"):
        GeometricMean(log_losses=True)


def test_it_agrees_with_torchjd():
    scalarization = pytest.importorskip("torchjd.scalarization")
    values = torch.rand(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    torch.testing.assert_close(GeometricMean().combine(values), scalarization.GeometricMean()(values))
