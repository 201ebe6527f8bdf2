import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing import Static
from polytask.errors import UserError


def leaf(value):
    return torch.tensor(float(value), requires_grad=True)


@pytest.mark.parametrize("weights", [{"b": 3.0, "a": 2.0}, [2.0, 3.0]])
def test_gradients_are_weighted_by_name_or_in_order(weights):
    losses = {"a": leaf(1), "b": leaf(1)}
    balancer = Static(weights)
    balancer.backward(losses)
    assert [loss.grad.item() for loss in losses.values()] == [2, 3]
    assert {task: w.item() for task, w in balancer.last.weights.items()} == {"a": 2, "b": 3}


def test_the_trunk_gets_the_weighted_sum(network, inputs):
    Static({"a": 0.5, "b": 0, "c": 2}).backward(network.losses(inputs))
    weights = torch.tensor([0.5, 0, 2], dtype=torch.float64)
    torch.testing.assert_close(network.trunk_gradient(), weights @ network.jacobian(inputs))


def test_combining_is_a_pure_function_of_the_losses():
    assert Static([1, 2]).combine(torch.tensor([3.0, 4.0])) == 11
    assert Static({"0": 1, "1": 2}).combine(torch.tensor([3.0, 4.0])) == 11


@settings(max_examples=30, deadline=None)
@given(weights=st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 100, width=32), min_size=1), data=st.data())
def test_any_order_and_any_subset_of_the_tasks_has_the_weights_of_its_names(weights, data):
    balancer = Static(weights)
    for _ in range(3):
        names = data.draw(st.lists(st.sampled_from(sorted(weights)), min_size=1, unique=True))
        losses = {name: leaf(1) for name in names}
        balancer.backward(losses)
        assert {name: loss.grad.item() for name, loss in losses.items()} == {name: weights[name] for name in names}


def test_weights_in_order_belong_to_the_tasks_that_were_prepared():
    balancer = Static([2.0, 3.0])
    balancer.prepare(["a", "b"])
    balancer.prepare(["a", "b"])
    losses = {"b": leaf(1)}
    balancer.backward(losses)
    assert losses["b"].grad.item() == 3


def test_double_losses_have_double_weights():
    loss = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    balancer = Static([0.1])
    balancer.backward([loss])
    assert loss.grad.item() == pytest.approx(0.1, abs=1e-15)


def test_there_is_nothing_to_save():
    assert Static([1.0]).state_dict() == {}
    assert not list(Static([1.0]).parameters())


def test_a_task_without_a_weight_is_named_with_the_closest_weight():
    with pytest.raises(UserError, match=r"no weight for task 'depth'.*Did you mean 'depht'\?"):
        Static({"seg": 1, "depht": 2}).backward({"seg": leaf(1), "depth": leaf(1)})
    with pytest.raises(UserError, match="no weight for task 'depth'"):
        Static({"seg": 1}).prepare(["seg", "depth"])


def test_a_weight_without_a_task_is_named_when_all_tasks_are_known():
    with pytest.raises(UserError, match=r"a weight for 'dpth', which is no task.*Did you mean 'depth'\?"):
        Static({"seg": 1, "depth": 1, "dpth": 2}).prepare(["seg", "depth"])


def test_a_wrong_number_of_weights_is_refused():
    with pytest.raises(UserError, match=r"3 weights for 2 tasks, 'a', 'b'.*prepare"):
        Static([1, 2, 3]).backward({"a": leaf(1), "b": leaf(1)})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": -1.0}, "weight of task 'a' is -1.0"),
        ([1.0, float("nan")], "weight of task '1' is nan"),
        ({}, "there are no weights"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(UserError, match=message):
        Static(weights)
