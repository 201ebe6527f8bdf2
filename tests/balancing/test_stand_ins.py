import torch
from torch import nn

from polytask.balancing.stand_ins import stand_in, stand_ins_behind


def parameters():
    return nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0, dtype=torch.float64))


def test_it_has_the_value_and_the_gradients_that_it_was_given_as_often_as_asked():
    one, two = parameters()
    found = stand_in(torch.tensor(5.0), [one, two], [torch.tensor([1.0, -1.0]), torch.tensor(4.0, dtype=torch.float64)])
    assert found.item() == 5
    for _ in range(2):
        (2 * found).backward()
    assert (one.grad.tolist(), two.grad.item()) == ([4, -4], 16)
    assert two.grad.dtype == torch.float64


def test_what_is_made_of_it_follows_the_chain_rule_twice():
    one, _ = parameters()
    found = stand_in(torch.tensor(4.0), [one], [torch.tensor([1.0, -1.0])])
    seed = torch.tensor(3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(found.log() * seed, [one], create_graph=True)
    assert gradient.tolist() == [0.75, -0.75]
    (slope,) = torch.autograd.grad(gradient @ torch.tensor([2.0, 0.0]), [seed])
    assert slope.item() == 0.5


def test_numbers_that_are_not_finite_pass_through():
    one, _ = parameters()
    stand_in(torch.tensor(torch.nan), [one], [torch.tensor([torch.inf, 1.0])]).backward()
    assert one.grad.tolist() == [torch.inf, 1]


def test_without_parameters_it_is_a_constant():
    assert not stand_in(torch.tensor(1.0), [], []).requires_grad


def test_they_are_told_from_losses_of_a_network_and_from_mixtures():
    one, two = parameters()
    first = stand_in(torch.tensor(4.0), [one], [torch.ones(2)], [one])
    second = stand_in(torch.tensor(4.0), [one], [torch.ones(2)])
    found = stand_ins_behind([(2 * first + second).log(), torch.tensor(1.0)])
    assert sorted(node.last is None for node in found) == [False, True]
    for losses in ([first, one.sum()], [first * two.float()], [two], [torch.tensor(1.0)]):
        assert stand_ins_behind(losses) is None
