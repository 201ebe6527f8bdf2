import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.uncertainty_softmax import UncertaintySoftmax
from polytask.errors import UserError


def leaves(*values, dtype=torch.float32):
    return [torch.tensor(value, dtype=dtype, requires_grad=True) for value in values]


def test_the_weights_are_the_softmax_of_the_inverse_losses_over_the_temperature():
    losses = leaves(0.5, 1.0, 4.0)
    balancer = UncertaintySoftmax(temperature=2.0)
    balancer.backward(losses)
    powers = [math.exp(1 / (loss * 2)) for loss in (0.5, 1.0, 4.0)]
    expected = [power / sum(powers) for power in powers]
    assert [loss.grad.item() for loss in losses] == pytest.approx(expected)
    assert balancer.last.weight_values.sum().item() == pytest.approx(1)


def test_no_gradient_flows_through_the_weights(network, inputs):
    balancer = UncertaintySoftmax()
    balancer.backward(network.losses(inputs))
    values = balancer.last.loss_values
    torch.testing.assert_close(network.trunk_gradient(), (1 / values).softmax(0) @ network.jacobian(inputs))


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(0.01, 100), min_size=1, max_size=6), data=st.data())
def test_the_order_of_the_tasks_does_not_matter(values, data):
    order = data.draw(st.permutations(range(len(values))))
    straight, shuffled = UncertaintySoftmax(), UncertaintySoftmax()
    straight.backward(leaves(*values, dtype=torch.float64))
    shuffled.backward(leaves(*[values[i] for i in order], dtype=torch.float64))
    torch.testing.assert_close(shuffled.last.weight_values, straight.last.weight_values[list(order)])


def test_the_temperature_has_the_unit_of_an_inverse_loss():
    plain, scaled = UncertaintySoftmax(0.3), UncertaintySoftmax(0.003)
    plain.backward(leaves(0.2, 3.0))
    scaled.backward(leaves(20.0, 300.0))
    torch.testing.assert_close(scaled.last.weight_values, plain.last.weight_values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_a_loss_of_zero_takes_all_the_weight_without_an_overflow(bad, dtype):
    balancer = UncertaintySoftmax()
    balancer.backward(leaves(bad, 1.0, dtype=dtype))
    assert balancer.last.weight_values.tolist() == [1, 0]


def test_one_task_alone_has_weight_1():
    losses = leaves(0.01)
    UncertaintySoftmax(0.1).backward(losses)
    assert losses[0].grad.item() == 1


def test_a_scaler_does_not_change_the_weights():
    plain, scaled = UncertaintySoftmax(), UncertaintySoftmax()
    plain.backward(leaves(2.0, 3.0))
    scaled.backward(leaves(2.0, 3.0), scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    torch.testing.assert_close(scaled.last.weight_values, plain.last.weight_values)


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(UserError, match=r"uncertainty_softmax: temperature is 0"):
        UncertaintySoftmax(temperature=0)
