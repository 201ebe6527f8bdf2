import pytest
import torch

from polytask.balancing import IndependentBatches
from polytask.errors import UserError


class Cross(IndependentBatches):
    """Notes what it is given; its weights are 1, 2, 3."""

    paper, year = "a test", 2020

    def update_weights(self, cross):
        self.cross = cross

    def update_weights_by(self, product):
        self.product = product

    def weights(self, gramian):
        return torch.arange(1.0, len(gramian) + 1, dtype=gramian.dtype)


@pytest.fixture
def three(inputs):
    return [inputs, inputs + 1, inputs * 2]


@pytest.mark.parametrize("scale", [None, 32.0])
def test_the_first_two_give_the_products_and_the_third_the_update(network, three, scale):
    balancer = Cross()
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    balancer.backward([network.losses(batch) for batch in three], network.trunk.parameters(), scaler=scaler)
    first, second, third = (network.jacobian(batch) for batch in three)
    torch.testing.assert_close(balancer.cross, first @ second.T)
    expected = torch.tensor([1.0, 2, 3], dtype=torch.float64) @ third * (scale or 1)
    torch.testing.assert_close(network.trunk_gradient(), expected)
    assert list(balancer.last.weights) == ["a", "b", "c"]


@pytest.mark.parametrize("scale", [None, 32.0])
def test_without_a_matrix_the_products_are_those_with_the_second_update(network, three, scale):
    balancer = Cross(matrix_free=True)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    balancer.backward([network.losses(batch) for batch in three], network.trunk.parameters(), scaler=scaler)
    first, second, third = (network.jacobian(batch) for batch in three)
    weights = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    torch.testing.assert_close(balancer.product, first @ (weights @ second))
    torch.testing.assert_close(network.trunk_gradient(), weights @ third * (scale or 1))


def test_without_a_matrix_nothing_shared_is_fine(inputs):
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    balancer = Cross(matrix_free=True)
    balancer.backward([[(a * x).sum(), (b * x).sum()] for x in (1, 2, 3)])
    assert (a.grad.tolist(), b.grad.tolist()) == ([3, 3], [3, 3])
    assert not hasattr(balancer, "product")


def test_one_batch_is_refused_with_what_to_do(network, inputs):
    for losses in (network.losses(inputs), list(network.losses(inputs).values())):
        with pytest.raises(UserError, match=r"Cross needs the losses of 3 independent batches: backward\(\[losses_1"):
            Cross().backward(losses, network.trunk.parameters())


def test_batches_for_different_tasks_are_refused(network, three):
    found = [network.losses(batch) for batch in three]
    del found[1]["b"]
    with pytest.raises(UserError, match="for different tasks"):
        Cross().backward(found, network.trunk.parameters())


@pytest.mark.parametrize("options", [{"every": 2}, {"on": "features"}, {"memory_budget": 1}, {"batch_fraction": 0.5}])
def test_options_about_the_gramian_of_one_batch_are_refused(options):
    with pytest.raises(UserError, match=f"leave out '?{next(iter(options))}="):
        Cross(**options)
