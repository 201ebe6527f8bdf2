import torch
from torch import nn

from polytask.balancing.graph import reach


def test_shared_and_own_parameters_are_told_apart():
    trunk, one, two = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(2, 1)
    features = trunk(torch.ones(3, 2))
    found = reach([one(features).sum(), two(features).sum()])
    assert set(found.shared) == set(trunk.parameters())
    assert [set(own) for own in found.own] == [set(one.parameters()), set(two.parameters())]


def test_what_two_of_three_losses_reach_is_shared():
    a, b, c = (nn.Parameter(torch.ones(())) for _ in range(3))
    found = reach([a * b, b * c, c * 2 + a * 0])
    assert set(found.shared) == {a, b, c}
    found = reach([a * b, b * 3, c * 2])
    assert set(found.shared) == {b}
    assert found.own == ((a,), (), (c,))


def test_a_parameter_that_one_loss_reaches_twice_is_its_own():
    a = nn.Parameter(torch.ones(()))
    assert reach([a * a + a]).own == ((a,),)


def test_frozen_parameters_constants_and_unused_parameters_are_reached_by_none():
    frozen, used = nn.Parameter(torch.ones(()), requires_grad=False), nn.Parameter(torch.ones(()))
    found = reach([frozen * used, torch.tensor(1.0), frozen * 2])
    assert (found.shared, found.own) == ((), ((used,), (), ()))


def test_a_loss_that_is_itself_a_parameter_reaches_itself():
    a = nn.Parameter(torch.ones(()))
    assert reach([a, a * 2]).shared == (a,)


def test_a_node_that_a_later_loss_enters_half_way_is_followed_to_its_leaves():
    a, b = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    middle = (a * 2).exp()
    found = reach([(middle * b).sin(), middle.cos()])
    assert set(found.shared) == {a}
    assert found.own == ((b,), ())


def test_long_graphs_do_not_exhaust_the_stack():
    a = nn.Parameter(torch.ones(()))
    x = a
    for _ in range(5000):
        x = x + 1
    assert reach([x, x * 2]).shared == (a,)
