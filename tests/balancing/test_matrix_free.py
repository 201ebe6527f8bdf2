import pytest
import torch
from torch import nn

from polytask import balancing
from polytask.balancing import MatrixFreeBalancer
from polytask.errors import UserError


class MinNorm(MatrixFreeBalancer):
    """The point of least norm; its objective is `|Jᵀ w|² / 2`."""

    paper, year = "a test", 2020
    domain = "simplex"

    def weights(self, gramian):
        raise AssertionError("not asked for without a matrix")

    def online_direction(self, weights):
        return weights

    def online_gradient(self, weights, product):
        self.product = product
        return product


def test_the_update_and_the_products_are_those_of_the_jacobian(network, inputs):
    balancer = MinNorm(matrix_free=True)
    balancer.backward(network.losses(inputs), network.trunk.parameters())
    jacobian = network.jacobian(inputs)
    mean = jacobian.mean(0)
    torch.testing.assert_close(network.trunk_gradient(), mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(balancer.product, jacobian @ mean, rtol=1e-6, atol=1e-8)
    head = network.heads["b"].weight.grad.clone()
    network.zero_grad()
    network.losses(inputs)["b"].backward()
    torch.testing.assert_close(head, network.heads["b"].weight.grad)


def test_with_constant_gradients_the_weights_go_to_the_exact_ones():
    jacobian = torch.tensor([[3.0, 0.0], [-0.5, 1.0]], dtype=torch.float64)
    theta = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    balancer = MinNorm(matrix_free=True, matrix_free_lr=0.1)
    # Curved, so that there are second derivatives; at 0 the gradients are the rows.
    for _ in range(300):
        theta.grad = None
        balancer.backward({str(k): (row @ theta).sinh() for k, row in enumerate(jacobian)}, [theta])
    gramian = jacobian @ jacobian.T
    first = (gramian[1, 1] - gramian[0, 1]) / (gramian[0, 0] + gramian[1, 1] - 2 * gramian[0, 1])
    torch.testing.assert_close(balancer.last.weights["0"].double(), first, rtol=1e-3, atol=1e-3)


def test_the_weights_go_on_after_saving_and_loading(network, inputs):
    one, two = MinNorm(matrix_free=True), MinNorm(matrix_free=True)
    one.backward(network.losses(inputs), network.trunk.parameters())
    two.load_state_dict(one.state_dict())
    for balancer in (one, two):
        balancer.backward(network.losses(inputs), network.trunk.parameters())
    assert torch.equal(one.last.weight_values, two.last.weight_values)
    assert len(one.last.weight_values.unique()) > 1


def test_a_scaler_changes_the_scale_of_the_gradients_only(network, inputs):
    plain, scaled = MinNorm(matrix_free=True), MinNorm(matrix_free=True)
    plain.backward(network.losses(inputs), network.trunk.parameters())
    update = network.trunk_gradient()
    network.zero_grad()
    scaled.backward(
        network.losses(inputs), network.trunk.parameters(), scaler=torch.amp.GradScaler("cpu", init_scale=64.0)
    )
    torch.testing.assert_close(network.trunk_gradient(), 64 * update)
    torch.testing.assert_close(scaled.product, plain.product)


def test_nothing_shared_and_linear_losses_are_fine():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    MinNorm(matrix_free=True).backward([(a * 2).sum(), (b * 3).sum()])
    assert (a.grad.tolist(), b.grad.tolist()) == ([2, 2], [3, 3])
    a.grad = None
    MinNorm(matrix_free=True).backward([(a * 2).sum(), (a * 3).sum()])
    assert a.grad.tolist() == [2.5, 2.5]


def test_weights_can_be_normalised(network, inputs):
    balancer = MinNorm(matrix_free=True, normalize="sum_to_k")
    balancer.backward(network.losses(inputs), network.trunk.parameters())
    torch.testing.assert_close(network.trunk_gradient(), network.jacobian(inputs).sum(0), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "options", [{"every": 2}, {"on": "last"}, {"update": "backward"}, {"clip_task_norm": 1.0}, {"smoothing": 0.5}]
)
def test_options_about_task_gradients_do_not_go_with_it(options):
    with pytest.raises(UserError, match=f"does not go with '?{next(iter(options))}="):
        MinNorm(matrix_free=True, **options)


def test_without_it_the_method_is_the_exact_one(network, inputs):
    with pytest.raises(AssertionError, match="not asked for"):
        MinNorm().backward(network.losses(inputs), network.trunk.parameters())


def test_an_operation_without_second_derivative_is_named():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * x.cos()

    theta = nn.Parameter(torch.ones(2))
    features = Once.apply(theta * 2)
    with pytest.raises(UserError, match="second derivatives"):
        MinNorm(matrix_free=True).backward([features.sum(), features.square().sum()], [theta])


@pytest.mark.parametrize(
    ("name", "tolerance"), [("mgda", 1e-3), ("cagrad", 0.02), ("nash_mtl", 0.02), ("fairgrad", 0.02)]
)
def test_methods_come_near_their_exact_update_where_gradients_stay(name, tolerance):
    jacobian = torch.tensor([[3.0, 0, 1], [-1, 1, 0], [0, -0.5, 2]], dtype=torch.float64)
    theta = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    balancer = balancing.create(name, matrix_free=True, matrix_free_lr=0.05)
    for _ in range(805):  # the last is no step on the plain mean, as CAGrad takes in between
        theta.grad = None
        balancer.backward({str(k): (row @ theta).sinh() for k, row in enumerate(jacobian)}, [theta])
    exact = balancing.create(name).combine(jacobian)
    assert (theta.grad - exact).norm() <= tolerance * exact.norm()
