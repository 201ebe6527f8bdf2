import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.gradnorm import GradNorm
from polytask.errors import UserError


def random_jacobian(seed, tasks, size=5):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, losses):
    """A step in which task k has the loss and the gradient given for it."""
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    values = {task: g @ theta + loss for g, (task, loss) in zip(jacobian, losses.items(), strict=True)}
    balancer.backward(values, [theta])
    return theta.grad


def weights(balancer, *names):
    return balancer.learned.read("value", names, torch.device("cpu")).tolist()


def test_the_first_step_is_the_sum():
    jacobian = random_jacobian(0, 3)
    torch.testing.assert_close(step(GradNorm(), jacobian, {"a": 3, "b": 0.1, "c": 1}), jacobian.sum(0))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_the_weights_follow_adam_on_the_papers_objective(alpha):
    balancer = GradNorm(alpha, lr=0.05)
    users = [torch.ones((), requires_grad=True) for _ in range(3)]
    optimizer = torch.optim.Adam(users, lr=0.05)
    first = torch.tensor([3.0, 0.2, 1.0])
    for i in range(25):
        jacobian = torch.tensor([1.0, 20.0, 5.0])[:, None] * random_jacobian(i, 3)
        losses = first * torch.tensor([1 - i / 50, 1 + i % 3, 0.9**i])
        update = step(balancer, jacobian, dict(zip("abc", losses.tolist(), strict=True)))
        known = torch.stack([w.detach() for w in users])
        torch.testing.assert_close(update, known.double() @ jacobian, rtol=1e-4, atol=1e-3)
        optimizer.zero_grad()
        lengths = torch.stack(users) * jacobian.norm(dim=1)
        rates = losses / first
        goals = (lengths.mean() * (rates / rates.mean()) ** alpha).detach()
        (lengths - goals).abs().sum().backward()
        optimizer.step()
        with torch.no_grad():
            total = sum(users).item()
            for w in users:
                w.mul_(3 / total)
        assert weights(balancer, "a", "b", "c") == pytest.approx([w.item() for w in users], rel=1e-4)


def test_without_alpha_the_gradients_come_to_one_length():
    balancer = GradNorm(alpha=0.0, lr=0.01)
    jacobian = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    for _ in range(400):
        step(balancer, jacobian, {"a": 1, "b": 1, "c": 1})
    lengths = torch.tensor(weights(balancer, "a", "b", "c")) * torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(lengths, lengths.mean().expand(3), rtol=0.05, atol=0)


def test_a_task_that_lags_behind_gets_more_weight():
    balancer = GradNorm()
    jacobian = torch.eye(2, dtype=torch.float64)
    for i in range(60):
        step(balancer, jacobian, {"slow": 1.0, "fast": 0.95**i})
    slow, fast = weights(balancer, "slow", "fast")
    assert slow > 1.5
    assert 0 < fast < 0.5
    assert slow + fast == pytest.approx(2, rel=1e-5)


def test_initial_losses_can_be_given():
    given, first = GradNorm(initial_losses={"b": 1, "a": 2}), GradNorm()
    given.prepare(["a", "b"])
    jacobian = torch.eye(2, dtype=torch.float64)
    step(first, jacobian, {"a": 2, "b": 1})
    for balancer in (given, first):
        balancer.learned.write("value", ["a", "b"], torch.ones(2))
    for field in ("mean", "square", "steps"):
        first.learned.write(field, ["a", "b"], torch.zeros(2))
    for losses in ({"a": 1, "b": 5}, {"b": 2, "a": 1.5}):
        step(given, jacobian, losses)
        step(first, jacobian, losses)
    assert weights(given, "a", "b") == pytest.approx(weights(first, "a", "b"))
    with pytest.raises(UserError, match="no initial loss for task 'c'"):
        GradNorm(initial_losses={"a": 1}).prepare(["a", "c"])


def test_the_heads_have_the_same_weights():
    balancer = GradNorm(lr=0.1)
    step(balancer, random_jacobian(0, 2), {"a": 3.0, "b": 0.2})
    assert balancer.head_weights().tolist() == weights(balancer, "a", "b")
    assert balancer.head_weights().dtype == torch.float64


def test_tasks_that_are_absent_keep_their_weight_and_the_others_their_sum():
    balancer = GradNorm(lr=0.1)
    step(balancer, random_jacobian(0, 3), {"a": 3.0, "b": 0.2, "c": 1})
    a, b, c = weights(balancer, "a", "b", "c")
    assert a + b + c == pytest.approx(3)
    for i in range(5):
        step(balancer, random_jacobian(i, 2), {"c": 0.5, "a": 2})
    assert weights(balancer, "b") == [b]
    assert sum(weights(balancer, "a", "c")) == pytest.approx(a + c)
    step(balancer, random_jacobian(9, 2), {"a": 0.5, "new": 2})
    assert sum(weights(balancer, "a", "b", "c", "new")) == pytest.approx(4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(4)))
def test_the_order_of_the_tasks_does_not_matter(seed, order):
    straight, shuffled = GradNorm(lr=0.1), GradNorm(lr=0.1)
    for i in range(3):
        jacobian = random_jacobian(seed + i, 4)
        losses = dict(zip("abcd", (jacobian[:, 0].abs() + 0.1).tolist(), strict=True))
        expected = step(straight, jacobian, losses)
        found = step(shuffled, jacobian[order], {"abcd"[k]: losses["abcd"[k]] for k in order})
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_one_task_alone_keeps_its_gradient():
    balancer = GradNorm()
    for i in range(4):
        jacobian = random_jacobian(i, 1)
        torch.testing.assert_close(step(balancer, jacobian, {"a": 2.0 + i}), jacobian[0])


def test_losses_and_gradients_of_zero_do_not_stop_it():
    balancer = GradNorm(lr=0.1)
    for i in range(30):
        jacobian = random_jacobian(i, 3)
        jacobian[1] = 0
        update = step(balancer, jacobian, {"a": 3.0, "b": 0.0 if i < 3 else 2.0, "c": max(0.0, 1 - i / 5)})
        assert update.isfinite().all()
    assert min(weights(balancer, "a", "b", "c")) > 0
    # The first loss above 0 is what others compare with.
    assert balancer.first.read("loss", ["a", "b", "c"], torch.device("cpu")).tolist() == [3, 2, 1]
    for _ in range(3):
        step(balancer, torch.zeros(3, 2, dtype=torch.float64), {"a": 0.0, "b": 0.0, "c": 0.0})
    assert sum(weights(balancer, "a", "b", "c")) == pytest.approx(3)


def test_very_different_lengths_leave_all_weights_above_zero():
    balancer = GradNorm(lr=0.2)
    jacobian = torch.diag(torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64))
    for _ in range(50):
        step(balancer, jacobian, {"a": 1, "b": 1, "c": 1})
        found = weights(balancer, "a", "b", "c")
        assert min(found) > 0
        assert sum(found) == pytest.approx(3, rel=1e-5)


def test_weights_outside_of_a_step_leave_the_state():
    balancer = GradNorm()
    assert balancer.weights(torch.eye(2)).tolist() == [1, 1]
    assert balancer.weights(torch.eye(2)).tolist() == [1, 1]


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, steps):
        found = []
        for i in steps:
            losses = {"a": 2 + i % 3, "type": 0.3, "b": 5} if i % 2 else {"b": 4 - i % 2}
            losses["d"] = 1.5
            found.append(step(balancer, random_jacobian(i, len(losses)), losses))
        return found

    whole = train(GradNorm(lr=0.1), range(8))
    first, second = GradNorm(lr=0.1), GradNorm(lr=0.1)
    train(first, range(4))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for ours, expected in zip(train(second, range(4, 8)), whole[4:], strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"initial_losses": {"a": 0}}, "initial loss of task 'a' is 0"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        GradNorm(**parameters)
