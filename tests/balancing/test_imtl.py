import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.imtl import IMTL
from polytask.balancing.imtl_g import IMTLG
from polytask.errors import UserError


def random_jacobian(seed, tasks, size=12):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, losses):
    """A step in which task k has the loss and the gradient given for it."""
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    values = {task: g @ theta + loss for g, (task, loss) in zip(jacobian, losses.items(), strict=True)}
    balancer.backward(values, [theta])
    return theta.grad


def scales(balancer):
    state = balancer.state_dict()
    return dict(zip(state["scales._extra_state"]["tasks"], state["scales.value"].tolist(), strict=True))


def test_the_first_step_is_that_of_imtl_g():
    jacobian = random_jacobian(0, 3)
    torch.testing.assert_close(step(IMTL(), jacobian, {"a": 3, "b": 0.1, "c": 1}), IMTLG().combine(jacobian))


def test_the_scales_follow_the_hand_worked_recurrence():
    # In its first step Adam goes by the learning rate, against the sign of exp(s) L - 1.
    balancer = IMTL(lr=0.1)
    step(balancer, random_jacobian(0, 3), {"a": 3.0, "b": 0.2, "c": 1.0})
    assert scales(balancer) == pytest.approx({"a": -0.1, "b": 0.1, "c": 0}, rel=1e-4)
    users = [torch.zeros((), requires_grad=True) for _ in range(3)]
    optimizer = torch.optim.Adam(users, lr=0.1)
    balancer = IMTL(lr=0.1)
    for i in range(20):
        losses = {"a": 3.0 - i / 10, "b": 0.2, "c": 1 + i % 3}
        optimizer.zero_grad()
        sum(s.exp() * loss - s for s, loss in zip(users, losses.values(), strict=True)).backward()
        optimizer.step()
        step(balancer, random_jacobian(i, 3), losses)
    assert scales(balancer) == pytest.approx(dict(zip("abc", [s.item() for s in users], strict=True)), rel=1e-4)


def test_the_update_projects_equally_on_the_gradients_of_the_scaled_losses():
    balancer = IMTL(lr=0.3)
    for i in range(5):
        factors = torch.tensor(list(scales(balancer).values()), dtype=torch.float64).exp() if i else torch.ones(3)
        jacobian = random_jacobian(i, 3)
        update = step(balancer, jacobian, {"a": 3, "b": 0.1, "c": 1})
        scaled = factors[:, None] * jacobian
        torch.testing.assert_close(update, IMTLG().combine(scaled))
        weights = balancer.last.weight_values / factors
        assert weights.sum().item() == pytest.approx(1)


def test_constant_losses_are_brought_to_one():
    balancer = IMTL(lr=0.1)
    jacobian = random_jacobian(0, 2)
    for _ in range(300):
        step(balancer, jacobian, {"a": 10, "b": 0.1})
    assert scales(balancer) == pytest.approx({"a": -math.log(10), "b": math.log(10)}, rel=1e-3)


def test_the_heads_have_the_factors_of_the_losses():
    balancer = IMTL(lr=0.1)
    step(balancer, random_jacobian(0, 2), {"a": 3.0, "b": 0.2})
    factors = balancer.head_weights()
    assert factors.tolist() == pytest.approx([math.exp(-0.1), math.exp(0.1)], rel=1e-4)
    balancer.present = ("b",)
    assert torch.equal(balancer.head_weights(), factors[1:])


def test_a_loss_that_is_not_positive_leaves_its_scale():
    balancer = IMTL(lr=0.1)
    for _ in range(3):
        step(balancer, random_jacobian(0, 3), {"a": 0.0, "b": -2.0, "c": 5.0})
    found = scales(balancer)
    assert (found["a"], found["b"]) == (0, 0)
    assert found["c"] < 0


def test_a_task_that_is_absent_keeps_its_scale_and_new_ones_can_come():
    balancer = IMTL(lr=0.1)
    step(balancer, random_jacobian(0, 2), {"a": 3.0, "b": 0.2})
    before = scales(balancer)["b"]
    step(balancer, random_jacobian(1, 2), {"c": 3.0, "a": 0.2})
    assert scales(balancer)["b"] == before
    assert scales(balancer)["c"] == pytest.approx(-0.1, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), seed=st.integers(0, 1000))
def test_the_order_of_the_tasks_does_not_matter(order, seed):
    straight, shuffled = IMTL(lr=0.1), IMTL(lr=0.1)
    for i in range(3):
        jacobian = random_jacobian(seed + i, 4)
        losses = dict(zip("abcd", (jacobian[:, 0].abs() + 0.1).tolist(), strict=True))
        expected = step(straight, jacobian, losses)
        rows = ["abcd".index(task) for task in order]
        found = step(shuffled, jacobian[rows], {task: losses[task] for task in order})
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert scales(shuffled) == pytest.approx(scales(straight))


def test_one_task_alone_is_weighted_by_its_scale():
    balancer = IMTL(lr=0.1)
    jacobian = random_jacobian(0, 1)
    torch.testing.assert_close(step(balancer, jacobian, {"a": 5}), jacobian[0])
    torch.testing.assert_close(step(balancer, jacobian, {"a": 5}), math.exp(-0.1) * jacobian[0], rtol=1e-5, atol=1e-6)


def test_a_gradient_of_zero_is_left_out():
    jacobian = random_jacobian(0, 3)
    jacobian[1] = 0
    update = step(IMTL(), jacobian, {"a": 3, "b": 2, "c": 1})
    torch.testing.assert_close(update, IMTLG().combine(jacobian[[0, 2]]))


def test_weights_outside_of_a_step_leave_the_state():
    balancer = IMTL()
    gramian = torch.eye(2, dtype=torch.float64)
    assert balancer.weights(gramian).tolist() == [0.5, 0.5]
    assert scales(balancer) == {"0": 0, "1": 0}


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, steps):
        found = []
        for i in steps:
            losses = {"a": 2 + i % 3, "type": 0.3, "b": 5} if i % 2 else {"b": 4 - i % 2}
            losses["d"] = 1.5
            found.append(step(balancer, random_jacobian(i, len(losses)), losses))
        return found

    whole = train(IMTL(lr=0.2), range(8))
    first, second = IMTL(lr=0.2), IMTL(lr=0.2)
    train(first, range(4))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for ours, expected in zip(train(second, range(4, 8)), whole[4:], strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
def test_a_bad_learning_rate_is_refused(lr):
    with pytest.raises(UserError, match=r"imtl: lr is .*above 0"):
        IMTL(lr=lr)
