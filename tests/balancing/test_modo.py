import pytest
import torch
from torch import nn

from polytask.balancing import MGDA, MoDo
from polytask.errors import UserError


def random_jacobian(seed, tasks=3, size=6):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights_of(balancer, tasks=3):
    return balancer.weights(torch.eye(tasks, dtype=torch.float64))


def backward(balancer, jacobians, names):
    """The update where the gradients in three batches are the rows of three matrices."""
    theta = nn.Parameter(torch.zeros(jacobians[0].shape[1], dtype=torch.float64))
    balancer.backward([dict(zip(names, jacobian @ theta, strict=True)) for jacobian in jacobians], [theta])
    return theta.grad


def test_two_steps_by_hand():
    balancer = MoDo(gamma=0.1, rho=0.5)
    # The slope is (1.5, 0.5) + 0.5 (1/2, 1/2); from (0.325, 0.425) back to the sum 1 by 0.125 each.
    balancer.update_weights(torch.tensor([[2.0, 1], [0, 1]]))
    torch.testing.assert_close(weights_of(balancer, 2), torch.tensor([0.45, 0.55]).double())
    # (1.45, 0.55) + 0.5 (0.45, 0.55), a tenth of it off: (0.2825, 0.4675), and 0.125 each.
    balancer.update_weights(torch.tensor([[2.0, 1], [0, 1]]))
    torch.testing.assert_close(weights_of(balancer, 2), torch.tensor([0.4075, 0.5925]).double())


def test_it_agrees_with_torchjd():
    aggregation = pytest.importorskip("torchjd.aggregation")
    expected, balancer = aggregation.MoDoWeighting(gamma=0.05, rho=0.2), MoDo(gamma=0.05, rho=0.2)
    for seed in range(6):
        products = random_jacobian(seed) @ random_jacobian(seed + 1).T
        balancer.update_weights(products)
        torch.testing.assert_close(weights_of(balancer), expected(products), rtol=1e-5, atol=1e-6)


def test_without_noise_it_goes_to_the_shortest_combination():
    jacobian, balancer = random_jacobian(3), MoDo(gamma=0.02, rho=0.0)
    for _ in range(2000):
        balancer.update_weights(jacobian @ jacobian.T)
    torch.testing.assert_close(weights_of(balancer), MGDA().weights(jacobian @ jacobian.T), rtol=1e-3, atol=1e-4)


def test_without_a_rate_it_is_the_mean():
    balancer = MoDo(gamma=0.0)
    jacobians = [random_jacobian(seed) for seed in range(3)]
    torch.testing.assert_close(backward(balancer, jacobians, "abc"), jacobians[2].mean(0))


def test_weights_of_two_batches_apply_to_the_third():
    jacobians = [random_jacobian(seed) for seed in range(3)]
    balancer, alone = MoDo(gamma=0.05), MoDo(gamma=0.05)
    update = backward(balancer, jacobians, "abc")
    alone.update_weights(jacobians[0] @ jacobians[1].T)
    torch.testing.assert_close(update, weights_of(alone) @ jacobians[2])
    assert MoDo.batches == 3


def test_without_a_matrix_the_steps_are_the_same():
    whole, free = MoDo(gamma=0.05), MoDo(gamma=0.05, matrix_free=True)
    for seed in range(3):
        jacobians = [random_jacobian(seed + place) for place in range(3)]
        torch.testing.assert_close(backward(free, jacobians, "abc"), backward(whole, jacobians, "abc"))


def test_weights_stay_where_a_gradient_is_not_finite():
    balancer = MoDo(gamma=0.05)
    balancer.update_weights(random_jacobian(0) @ random_jacobian(1).T)
    before = weights_of(balancer)
    balancer.update_weights(torch.full((3, 3), torch.nan))
    torch.testing.assert_close(weights_of(balancer), before)


def test_it_continues_from_a_saved_state():
    balancer = MoDo(gamma=0.05)
    for seed in range(3):
        balancer.update_weights(random_jacobian(seed) @ random_jacobian(seed + 1).T)
    continued = MoDo(gamma=0.05)
    continued.load_state_dict(balancer.state_dict())
    for seed in range(3, 6):
        for one in (balancer, continued):
            one.update_weights(random_jacobian(seed) @ random_jacobian(seed + 1).T)
        assert torch.equal(weights_of(continued), weights_of(balancer))


def test_tasks_are_found_by_name_and_can_be_absent():
    jacobians = [random_jacobian(seed) for seed in range(3)]
    one, other = MoDo(gamma=0.05), MoDo(gamma=0.05)
    for balancer in (one, other):
        balancer.prepare(["a", "b", "c"])
        backward(balancer, [jacobian[:2] for jacobian in jacobians], "ab")
    order = [2, 0, 1]
    found = backward(other, [jacobian[order] for jacobian in jacobians], "cab")
    torch.testing.assert_close(found, backward(one, jacobians, "abc"), rtol=1e-5, atol=1e-6)


def test_one_task_alone_and_gradients_of_0():
    gradient = torch.tensor([[1.0, 2]]).double()
    torch.testing.assert_close(backward(MoDo(), [gradient] * 3, "a"), gradient[0])
    both = torch.tensor([[1.0, 2], [0, 0]]).double()
    assert backward(MoDo(), [both] * 3, "ab").any()
    assert not backward(MoDo(), [torch.zeros(2, 2).double()] * 3, "ab").any()


@pytest.mark.parametrize("parameters", [{"gamma": -1.0}, {"rho": float("inf")}])
def test_bad_parameters_are_refused(parameters):
    with pytest.raises(UserError, match=r"modo: (gamma|rho) is .* but must be a number of at least 0"):
        MoDo(**parameters)
