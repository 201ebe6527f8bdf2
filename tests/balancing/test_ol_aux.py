import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.ol_aux import OLAux
from polytask.errors import UserError


def random_jacobian(seed, tasks, size=5):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, names):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    balancer.backward(dict(zip(names, jacobian @ theta + 1, strict=True)), [theta])
    return theta.grad


def make(main="main", **parameters):
    return OLAux(main, **{"log_losses": False, **parameters})


def weights(balancer, *names):
    return balancer.auxiliary.read("weight", names, torch.device("cpu")).tolist()


def test_the_weights_follow_the_hand_worked_recurrence():
    balancer = make(lr=0.1, horizon=2)
    names = ["a", "main", "b"]
    # Products with the main task: 2 and -1, then 4 and 0.5; 0.1 * 6 and -0.1 * 0.5. Then they are over.
    for jacobian, expected in (
        ([[2.0, 0], [1, 1], [-1, 0]], [1, 1, 1]),
        ([[2.0, 2], [1, 1], [0.5, 0]], [1, 1, 1]),
        ([[-3.0, 0], [1, 1], [-1, 0]], [1.6, 1, 0.95]),
        ([[-3.0, 0], [1, 1], [-1, 0]], [1.6, 1, 0.95]),
        ([[0.0, 0], [1, 1], [0, 0]], [1.0, 1, 0.75]),
    ):
        step(balancer, torch.tensor(jacobian, dtype=torch.float64), names)
        assert balancer.last.weight_values.tolist() == pytest.approx(expected)


def test_the_update_is_the_main_gradient_and_the_weighted_others():
    balancer = make(lr=1.0, horizon=1)
    for i in range(4):
        jacobian = random_jacobian(i, 3)
        known = torch.tensor([1.0, *weights(balancer, "a", "b")], dtype=torch.float64)
        torch.testing.assert_close(step(balancer, jacobian, ["main", "a", "b"]), known @ jacobian)
        moved = known + jacobian @ jacobian[0]
        assert weights(balancer, "a", "b") == pytest.approx(moved[1:].clamp(min=0).tolist(), rel=1e-5)


def test_weights_do_not_fall_below_zero_and_come_back():
    balancer = make(lr=1.0, horizon=1)
    against = torch.tensor([[1.0, 0], [-5, 0]], dtype=torch.float64)
    update = [step(balancer, against, ["main", "a"]) for _ in range(2)][1]
    assert update.tolist() == [1, 0]
    step(balancer, torch.tensor([[1.0, 0], [2, 0]], dtype=torch.float64), ["main", "a"])
    assert weights(balancer, "a") == [2]


def test_it_runs_on_the_logarithms_of_the_losses_by_default():
    balancer = OLAux("main", lr=1.0, horizon=1)
    theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    balancer.backward({"main": (2 * theta + 4).sum(), "a": (3 * theta + 0.5).sum()}, [theta])
    assert theta.grad.item() == pytest.approx(2 / 4 + 3 / 0.5)
    assert weights(balancer, "a")[0] == pytest.approx(1 + 2 / 4 * 3 / 0.5)


def test_several_main_tasks_count_with_the_sum_of_their_gradients():
    balancer = make(["m", "n"], lr=0.1, horizon=1)
    jacobian = random_jacobian(0, 3)
    step(balancer, jacobian, ["m", "a", "n"])
    product = (jacobian[0] + jacobian[2]) @ jacobian[1]
    assert weights(balancer, "m", "a", "n") == pytest.approx([1, 1 + 0.1 * product.item(), 1])


def test_a_task_counts_the_steps_that_it_has_with_the_main_one():
    balancer = make(lr=0.1, horizon=2)
    balancer.prepare(["main", "a", "b"])
    one = torch.ones(1, 1, dtype=torch.float64)
    step(balancer, one.expand(3, 1), ["main", "a", "b"])
    step(balancer, one.expand(2, 1), ["a", "b"])
    step(balancer, one.expand(2, 1), ["b", "main"])
    assert weights(balancer, "a", "b") == pytest.approx([1, 1.2])
    step(balancer, one.expand(2, 1), ["a", "main"])
    assert weights(balancer, "a", "b") == pytest.approx([1.2, 1.2])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(4)))
def test_the_order_of_the_tasks_does_not_matter(seed, order):
    names = ["a", "b", "main", "c"]
    straight, shuffled = make(lr=0.1, horizon=1), make(lr=0.1, horizon=1)
    for i in range(3):
        jacobian = random_jacobian(seed + i, 4)
        expected = step(straight, jacobian, names)
        found = step(shuffled, jacobian[order], [names[k] for k in order])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_one_task_alone_and_gradients_of_zero():
    jacobian = random_jacobian(0, 2)
    torch.testing.assert_close(step(make(horizon=1), jacobian[:1], ["main"]), jacobian[0])
    balancer = make(horizon=1)
    jacobian[1] = 0
    for _ in range(3):
        torch.testing.assert_close(step(balancer, jacobian, ["main", "a"]), jacobian[0])
    assert weights(balancer, "a") == [1]


def test_it_finds_out_which_of_two_tasks_helps():
    theta = nn.Parameter(torch.tensor([2.0, 2.0]))
    balancer = make(lr=0.005, horizon=5)
    optimizer = torch.optim.SGD([theta], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        near, far = theta - torch.tensor([0.1, 0.0]), theta - torch.tensor([9.0, 9.0])
        losses = {"main": theta.square().sum(), "near": near.square().sum(), "far": far.square().sum()}
        balancer.backward(losses, [theta])
        optimizer.step()
    near, far = weights(balancer, "near", "far")
    assert near > far
    assert far < 0.1
    assert theta.square().sum() < 0.3


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, steps):
        found = []
        for i in steps:
            names = ["main", "a", "b", "c"] if i % 3 else ["c", "main"]
            found.append(step(balancer, random_jacobian(i, len(names)), names))
        return found

    whole = train(make(lr=0.1, horizon=3), range(10))
    first, second = make(lr=0.1, horizon=3), make(lr=0.1, horizon=3)
    train(first, range(5))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for ours, expected in zip(train(second, range(5, 10)), whole[5:], strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"lr": 0.0}, "lr is 0.0"), ({"lr": math.inf}, "lr is inf"), ({"horizon": 0}, "horizon is 0")],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        OLAux("main", **parameters)


def test_a_main_task_that_is_no_task_is_refused():
    with pytest.raises(UserError, match="ol_aux: the main task 'main' is no task"):
        OLAux("main").prepare(["a", "b"])
