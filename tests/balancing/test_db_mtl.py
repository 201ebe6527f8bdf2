import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.db_mtl import DBMTL
from polytask.errors import UserError


def jacobians(steps, tasks, columns=6, seed=0):
    return torch.randn(steps, tasks, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, tasks):
    """A step with losses of 1, whose logarithms have the same gradients."""
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    balancer.backward({task: 1 + row @ theta for task, row in zip(tasks, jacobian, strict=True)}, [theta])
    return theta.grad


def definition(sequence, beta, sigma):
    """The formulas of the paper for all steps."""
    averages, updates = torch.zeros_like(sequence[0]), []
    for t, jacobian in enumerate(sequence, start=1):
        rate = beta / t**sigma
        averages = rate * averages + (1 - rate) * jacobian
        lengths = [row.norm() for row in averages]
        updates.append(max(lengths) * sum(row / length for row, length in zip(averages, lengths, strict=True)))
    return updates


@pytest.mark.parametrize(("beta", "sigma"), [(0.9, 0.0), (0.5, 0.5), (0.0, 0.0), (0.1, 1.0)])
def test_the_updates_are_those_of_the_definition(beta, sigma):
    sequence = jacobians(8, 3)
    balancer = DBMTL(beta, sigma)
    for jacobian, expected in zip(sequence, definition(sequence, beta, sigma), strict=True):
        torch.testing.assert_close(step(balancer, jacobian, "abc"), expected, rtol=1e-6, atol=1e-7)


def test_two_steps_by_hand():
    balancer = DBMTL(beta=0.5)
    jacobian = torch.tensor([[6.0, 8], [0, 2]], dtype=torch.float64)
    # Averages (3, 4) and (0, 1): lengths 5 and 1.
    assert balancer.combine(jacobian).tolist() == pytest.approx([3, 4 + 5])
    # Averages (1.5, 2) and (1.5, 0.5 + 1.5): both 2.5.
    assert balancer.combine(torch.tensor([[0.0, 0], [3, 3]]).double()).tolist() == pytest.approx([3, 4])


def test_the_gradients_are_those_of_the_log_losses_for_trunk_and_heads(network, inputs):
    losses = network.losses(inputs)
    values = torch.stack(list(losses.values())).detach() + 1e-8
    own = {
        task: torch.autograd.grad(losses[task], list(head.parameters()), retain_graph=True)
        for task, head in network.heads.items()
    }
    DBMTL().backward(losses, network.trunk.parameters())
    expected = definition([network.jacobian(inputs) / values[:, None]], 0.9, 0)[0]
    torch.testing.assert_close(network.trunk_gradient(), expected, rtol=1e-6, atol=1e-8)
    for (task, head), value in zip(network.heads.items(), values, strict=True):
        torch.testing.assert_close(tuple(p.grad for p in head.parameters()), tuple(g / value for g in own[task]))


def test_it_can_run_on_the_losses_themselves(network, inputs):
    DBMTL(beta=0, log_losses=False).backward(network.losses(inputs), network.trunk.parameters())
    expected = definition([network.jacobian(inputs)], 0, 0)[0]
    torch.testing.assert_close(network.trunk_gradient(), expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_every_task_has_the_length_of_the_longest_and_order_does_not_matter(seed, scale):
    jacobian = jacobians(1, 3, seed=seed)[0] * torch.tensor([[1.0], [scale], [1 / scale]])
    found = DBMTL(beta=0).combine(jacobian)
    units = jacobian / jacobian.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, jacobian.norm(dim=1).max() * units.sum(0))
    torch.testing.assert_close(DBMTL(beta=0).combine(jacobian[[2, 0, 1]]), found)


def test_tasks_can_be_absent_come_later_and_change_order():
    sequence = jacobians(3, 3)
    balancer = DBMTL(beta=0.5, sigma=1.0)
    step(balancer, sequence[0][:2], "ab")
    step(balancer, sequence[1][[1]], "b")
    found = step(balancer, sequence[2][[2, 1, 0]], "cba")
    half, quarter = 0.5, 0.25
    averages = [
        quarter * half * sequence[0][0] + (1 - quarter) * sequence[2][0],
        0.5 / 3 * (quarter * half * sequence[0][1] + (1 - quarter) * sequence[1][1]) + (1 - 0.5 / 3) * sequence[2][1],
        half * sequence[2][2],
    ]
    expected = max(a.norm() for a in averages) * sum(a / a.norm() for a in averages)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_one_task_and_a_gradient_of_0_among_others():
    jacobian = jacobians(1, 3)[0]
    torch.testing.assert_close(DBMTL(beta=0).combine(jacobian[:1]), jacobian[0])
    expected = DBMTL(beta=0).combine(jacobian[:2])
    torch.testing.assert_close(DBMTL(beta=0).combine(jacobian * torch.tensor([[1.0], [1], [0]])), expected)
    assert not DBMTL().combine(torch.zeros(2, 4)).any()


def test_a_loss_of_0_leaves_training_going():
    theta = nn.Parameter(torch.ones(2, dtype=torch.float64))
    DBMTL(beta=0).backward([(theta[0] * 0).square(), theta.sum()], [theta])
    torch.testing.assert_close(theta.grad, torch.full((2,), 0.5, dtype=torch.float64))


def test_a_step_that_overflows_in_float16_is_left_to_the_scaler_and_not_taken_in():
    sequence = jacobians(2, 2).float()
    balancer, untouched = DBMTL(), DBMTL()
    for each in (balancer, untouched):
        each.combine(sequence[0])
    found = balancer.combine(sequence[1] * torch.tensor([[1.0], [torch.inf]]))
    assert not found.isfinite().any()
    assert torch.equal(balancer.combine(sequence[1]), untouched.combine(sequence[1]))


def test_other_shared_parameters_than_before_are_refused():
    balancer = DBMTL()
    balancer.combine(torch.ones(2, 4))
    with pytest.raises(UserError, match=r"db_mtl: the shared parameters were 4 numbers so far, and are 3.*`shared=`"):
        balancer.combine(torch.ones(2, 3))


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    sequence = jacobians(6, 2)
    whole = DBMTL(0.5, 0.5)
    for jacobian in sequence[:3]:
        step(whole, jacobian, "ab")
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    fresh = DBMTL(0.5, 0.5)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for jacobian in sequence[3:]:
        assert torch.equal(step(fresh, jacobian, "ba"), step(whole, jacobian, "ba"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"beta": 1.0}, "db_mtl: beta is 1.0"), ({"beta": -0.1}, "beta is -0.1"), ({"sigma": -1.0}, "sigma is -1.0")],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        DBMTL(**parameters)
