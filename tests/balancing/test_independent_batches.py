import pytest
import torch

from polytask.balancing import IndependentBatches
from polytask.errors import UserError


class Cross(IndependentBatches):
    """Notes what it is given; its weights are 1, 2, 3."""

    paper, year = "a test", 2020

    def update_weights(self, cross):
        self.cross = cross

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
