import pytest
import torch
from hypothesis import given, settings
from torch import nn

from polytask.balancing import MGDA, SDMGrad
from polytask.errors import UserError

from .jacobians import HARMLESS, tensors


def cross(seed, tasks, size=12):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(tasks, size, dtype=torch.float64, generator=generator)
    one, other = (mean + 0.2 * torch.randn(tasks, size, dtype=torch.float64, generator=generator) for _ in range(2))
    return one @ other.T


def weights_of(balancer, tasks=3):
    return balancer.weights(torch.eye(tasks, dtype=torch.float64))


def backward(balancer, jacobians, names):
    """The update where the gradients in three batches are the rows of three matrices."""
    theta = nn.Parameter(torch.zeros(jacobians[0].shape[1], dtype=torch.float64))
    balancer.backward([dict(zip(names, jacobian @ theta, strict=True)) for jacobian in jacobians], [theta])
    return theta.grad


def test_two_inner_steps_by_hand():
    # Lengths of 2 and 4: the products are divided by 9. p = 1/2 each, λ = 1.
    products = torch.tensor([[4.0, 0], [0, 16]])
    balancer = SDMGrad(lambda_=1.0, lr=0.09, momentum=0.5, steps=2)
    torch.testing.assert_close(weights_of(balancer, 2), torch.full((2,), 0.5).double())
    # First: the slope is (4, 16) / 9, so that w goes to (0.46, 0.34), and on the simplex to (0.56, 0.44). Then: the
    # velocity is half of that and (4 x 1.06, 16 x 0.94) / 9, w goes to (0.4976, 0.2096), and on to (0.644, 0.356).
    balancer.update_weights(products)
    torch.testing.assert_close(weights_of(balancer, 2), torch.tensor([1.144, 0.856]).double() / 2)


@pytest.mark.parametrize("preferred", [False, True])
def test_it_agrees_with_torchjd(preferred):
    aggregation = pytest.importorskip("torchjd.aggregation")
    shares = torch.tensor([0.2, 0.3, 0.5]).double() if preferred else None
    expected = aggregation.SDMGradWeighting(pref_vector=shares)
    balancer = SDMGrad(preference=[2.0, 3, 5] if preferred else None)
    for seed in range(5):
        products = cross(seed, 3)
        balancer.update_weights(products)
        torch.testing.assert_close(weights_of(balancer), expected(products), rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(jacobian=tensors(HARMLESS, most_tasks=4))
def test_without_noise_and_direction_it_goes_to_the_shortest_combination(jacobian):
    balancer = SDMGrad(lambda_=0.0, lr=0.3, momentum=0.0, steps=3000)
    balancer.update_weights(jacobian @ jacobian.T)
    update = weights_of(balancer, len(jacobian)) @ jacobian
    assert update.norm() <= MGDA().combine(jacobian).norm() * 1.01


def test_a_great_lambda_is_the_mean_gradient():
    balancer = SDMGrad(lambda_=1e6)
    balancer.update_weights(cross(0, 3))
    torch.testing.assert_close(weights_of(balancer), torch.full((3,), 1 / 3).double(), rtol=1e-5, atol=0)


def test_the_scale_of_the_gradients_does_not_matter():
    one, other = SDMGrad(), SDMGrad()
    one.update_weights(cross(0, 3))
    other.update_weights(1e-6 * cross(0, 3))
    torch.testing.assert_close(weights_of(one), weights_of(other), rtol=1e-6, atol=1e-7)


def test_a_preference_has_to_be_for_these_tasks():
    balancer = SDMGrad(preference={"a": 1.0, "b": 3.0})
    balancer.prepare(["a", "b"])
    with pytest.raises(UserError, match="sdmgrad: there is no preference for task 'c'"):
        balancer.prepare(["a", "b", "c"])


def test_weights_of_two_batches_apply_to_the_third():
    jacobians = [torch.randn(3, 6, generator=torch.Generator().manual_seed(seed)).double() for seed in range(3)]
    balancer, alone = SDMGrad(), SDMGrad()
    update = backward(balancer, jacobians, "abc")
    alone.update_weights(jacobians[0] @ jacobians[1].T)
    torch.testing.assert_close(update, weights_of(alone) @ jacobians[2])


@pytest.mark.parametrize("products", [torch.zeros(3, 3), -torch.eye(3), torch.full((3, 3), torch.inf)])
def test_weights_stay_where_the_batches_say_nothing(products):
    balancer = SDMGrad()
    balancer.update_weights(cross(0, 3))
    before = weights_of(balancer)
    balancer.update_weights(products)
    torch.testing.assert_close(weights_of(balancer), before)


def test_it_continues_from_a_saved_state():
    balancer = SDMGrad(lr=0.5)
    for seed in range(3):
        balancer.update_weights(cross(seed, 3))
    continued = SDMGrad(lr=0.5)
    continued.load_state_dict(balancer.state_dict())
    for seed in range(3, 6):
        balancer.update_weights(cross(seed, 3))
        continued.update_weights(cross(seed, 3))
        assert torch.equal(weights_of(continued), weights_of(balancer))


def test_tasks_are_found_by_name_and_can_be_absent():
    jacobians = [torch.randn(3, 6, generator=torch.Generator().manual_seed(seed)).double() for seed in range(3)]
    one, other = SDMGrad(lr=0.1), SDMGrad(lr=0.1)
    for balancer in (one, other):
        balancer.prepare(["a", "b", "c"])
        backward(balancer, [jacobian[:2] for jacobian in jacobians], "ab")
    order = [2, 0, 1]
    found = backward(other, [jacobian[order] for jacobian in jacobians], "cab")
    torch.testing.assert_close(found, backward(one, jacobians, "abc"), rtol=1e-5, atol=1e-6)


def test_one_task_alone_and_one_gradient_of_0():
    gradient = torch.tensor([[1.0, 2]]).double()
    torch.testing.assert_close(backward(SDMGrad(), [gradient] * 3, "a"), gradient[0])
    both = torch.tensor([[1.0, 2], [0, 0]]).double()
    assert backward(SDMGrad(), [both] * 3, "ab").any()


def test_without_a_matrix_and_noise_it_goes_to_the_shortest_combination_too():
    jacobian = torch.tensor([[3.0, 0], [-0.5, 1]], dtype=torch.float64)
    balancer = SDMGrad(lambda_=0.0, matrix_free=True)
    for scale in (1e-4, 1e4):  # The scale does not matter.
        for _ in range(400):
            backward(balancer, [scale * jacobian] * 3, "ab")
    found = weights_of(balancer, 2)
    torch.testing.assert_close(found, MGDA().weights(jacobian @ jacobian.T), rtol=2e-2, atol=2e-2)


def test_without_a_matrix_it_continues_from_a_saved_state():
    one, other = SDMGrad(matrix_free=True), SDMGrad(matrix_free=True)
    jacobians = [torch.randn(3, 6, generator=torch.Generator().manual_seed(seed)).double() for seed in range(3)]
    backward(one, jacobians, "abc")
    other.load_state_dict(one.state_dict())
    assert torch.equal(backward(one, jacobians, "abc"), backward(other, jacobians, "abc"))


def test_it_needs_three_batches():
    with pytest.raises(UserError, match="SDMGrad needs the losses of 3 independent batches"):
        SDMGrad().backward({"a": torch.ones((), requires_grad=True)})
    assert SDMGrad.batches == 3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lambda_": -1.0}, r"lambda_ is -1.0, but must be a number of at least 0"),
        ({"lr": 0.0}, r"lr is 0.0, but must be a number above 0"),
        ({"momentum": 1.0}, r"momentum is 1.0, but must be from 0 to below 1"),
        ({"matrix_free_lr": 0.0}, r"matrix_free_lr is 0.0, but must be a number above 0"),
        ({"steps": 0}, r"steps is 0, but must be at least 1"),
        ({"preference": {"a": 0.0}}, r"preference of task 'a' is 0"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=f"sdmgrad: .*{message}"):
        SDMGrad(**parameters)
