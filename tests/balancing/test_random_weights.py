import copy

import pytest
import torch

from polytask.balancing.random_weights import RandomWeights
from polytask.errors import UserError


def draw(balancer, tasks=3):
    balancer.backward([torch.tensor(1.0, requires_grad=True) for _ in range(tasks)])
    return balancer.last.weight_values


@pytest.mark.parametrize(("distribution", "variance"), [("normal", None), ("dirichlet", 3 / (16 * 5))])
def test_weights_are_positive_sum_to_1_and_are_one_over_k_on_average(distribution, variance):
    balancer = RandomWeights(distribution)
    weights = torch.stack([draw(balancer, 4) for _ in range(4000)])
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(4000))
    torch.testing.assert_close(weights.mean(0), torch.full((4,), 0.25), atol=0.015, rtol=0)
    if variance is not None:
        torch.testing.assert_close(weights.var(0), torch.full((4,), variance), atol=0.004, rtol=0)


def test_normal_weights_are_the_softmax_of_standard_normal_numbers():
    balancer = RandomWeights()
    logs = torch.stack([draw(balancer, 2) for _ in range(4000)]).log()
    difference = logs[:, 0] - logs[:, 1]
    assert difference.mean().item() == pytest.approx(0, abs=0.08)
    assert difference.var().item() == pytest.approx(2, rel=0.08)


def test_the_trunk_gets_the_weighted_gradients(network, inputs):
    balancer = RandomWeights()
    balancer.backward(network.losses(inputs))
    weights = balancer.last.weight_values
    assert len(set(weights.tolist())) == 3
    torch.testing.assert_close(network.trunk_gradient(), weights @ network.jacobian(inputs))


def test_the_seed_decides_and_the_global_generator_does_not():
    torch.manual_seed(0)
    first = draw(RandomWeights(seed=3))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(draw(RandomWeights(seed=3)), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(draw(RandomWeights(seed=4)), first)


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(distribution, tmp_path):
    balancer = RandomWeights(distribution)
    draw(balancer)
    torch.save(balancer.state_dict(), tmp_path / "state.pt")
    expected = [draw(balancer), draw(balancer, 2)]
    fresh = RandomWeights(distribution, seed=9)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for tasks, weights in zip((3, 2), expected, strict=True):
        assert torch.equal(draw(fresh, tasks), weights)


def test_a_copy_has_random_numbers_of_its_own():
    balancer = RandomWeights()
    draw(balancer)
    copied = copy.deepcopy(balancer)
    assert torch.equal(draw(copied), draw(balancer))


def test_one_task_alone_has_weight_1_and_a_loss_of_zero_is_no_matter():
    for distribution in ("normal", "dirichlet"):
        loss = torch.tensor(0.0, requires_grad=True)
        RandomWeights(distribution).backward([loss])
        assert loss.grad.item() == 1


def test_a_scaler_does_not_change_the_weights():
    plain, scaled = RandomWeights(), RandomWeights()
    losses = [torch.tensor(2.0, requires_grad=True) for _ in range(3)]
    scaled.backward(losses, scaler=torch.amp.GradScaler("cpu", init_scale=64.0))
    torch.testing.assert_close(scaled.last.weight_values, draw(plain))


def test_an_unknown_distribution_is_refused():
    with pytest.raises(UserError, match="random: distribution is 'uniform'"):
        RandomWeights("uniform")
