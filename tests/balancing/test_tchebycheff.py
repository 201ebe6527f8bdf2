import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.tchebycheff import Tchebycheff
from polytask.errors import UserError


def losses_of(**values):
    return {task: torch.tensor(float(value), requires_grad=True) for task, value in values.items()}


def weights_of(balancer):
    return {task: weight.item() for task, weight in balancer.last.weights.items()}


def test_the_worst_task_alone_is_trained(network, inputs):
    balancer = Tchebycheff()
    balancer.backward(network.losses(inputs))
    worst = balancer.last.loss_values.argmax()
    torch.testing.assert_close(network.trunk_gradient(), network.jacobian(inputs)[worst])


@pytest.mark.parametrize(
    ("weights", "ideal"), [([1, 3, 2], [0, 0, 1]), ({"b": 3, "a": 1, "c": 2}, {"c": 1, "b": 0, "a": 0})]
)
def test_weights_and_ideal_values_decide_which_is_the_worst(weights, ideal):
    balancer = Tchebycheff(weights, ideal)
    balancer.backward(losses_of(a=5, b=2, c=3.5))
    assert weights_of(balancer) == {"a": 0, "b": 3, "c": 0}
    balancer.backward(losses_of(c=4.5, a=5, b=2))
    assert weights_of(balancer) == {"a": 0, "b": 0, "c": 2}
    balancer.backward(losses_of(a=5))
    assert weights_of(balancer) == {"a": 1}


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=6), data=st.data())
def test_the_order_of_the_tasks_does_not_matter_and_ties_are_shared(values, data):
    order = data.draw(st.permutations(range(len(values))))
    straight, shuffled = Tchebycheff(), Tchebycheff()
    straight.backward([torch.tensor(float(v), requires_grad=True) for v in values])
    shuffled.backward([torch.tensor(float(values[i]), requires_grad=True) for i in order])
    torch.testing.assert_close(shuffled.last.weight_values, straight.last.weight_values[list(order)])
    expected = [(v == max(values)) / values.count(max(values)) for v in values]
    assert straight.last.weight_values.tolist() == pytest.approx(expected)


def test_a_point_that_no_weighted_sum_reaches_is_reached():
    # f = (x, 1 - x²) on [0, 1] has a concave front: a weighted sum ends at x = 0 or 1. max(f) is least at f1 = f2.
    x = torch.nn.Parameter(torch.tensor(0.9, dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 / (1 + step))
    for _ in range(2000):
        optimizer.zero_grad()
        Tchebycheff().backward([x, 1 - x.square()])
        optimizer.step()
        schedule.step()
    assert x.item() == pytest.approx((5**0.5 - 1) / 2, abs=1e-3)


def test_a_scaler_does_not_change_the_weights():
    balancer = Tchebycheff([2.0, 1.0])
    balancer.backward(losses_of(a=2, b=3), scaler=torch.amp.GradScaler("cpu", init_scale=64.0))
    assert balancer.last.weight_values.tolist() == [2, 0]


def test_losses_that_are_all_zero_are_fine():
    balancer = Tchebycheff()
    balancer.backward(losses_of(a=0, b=0))
    assert balancer.last.weight_values.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"weights": {"a": -1.0}}, "tchebycheff: the weight of task 'a' is -1.0"),
        ({"ideal": [float("nan")]}, "tchebycheff: the ideal value of task '0' is nan"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        Tchebycheff(**parameters)


def test_values_that_do_not_fit_the_tasks_are_refused():
    with pytest.raises(UserError, match="a weight for 'dpth', which is no task"):
        Tchebycheff(weights={"depth": 1, "dpth": 1}).prepare(["depth"])
    with pytest.raises(UserError, match="no ideal value for task 'b'"):
        Tchebycheff(ideal={"a": 1}).backward(losses_of(a=1, b=1))
