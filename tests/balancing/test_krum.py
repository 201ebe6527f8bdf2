import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from polytask.balancing.krum import Krum
from polytask.errors import UserError


def random_jacobian(tasks, columns=6, seed=0):
    return torch.randn(tasks, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scores(jacobian, faulty):
    """The definition, on the gradients themselves."""
    found = []
    for i, row in enumerate(jacobian):
        distances = sorted(((row - other) ** 2).sum().item() for j, other in enumerate(jacobian) if j != i)
        found.append(sum(distances[: len(jacobian) - faulty - 2]))
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10000), tasks=st.integers(3, 9), data=st.data())
def test_the_gradients_with_the_lowest_scores_are_averaged(seed, tasks, data):
    faulty, select = data.draw(st.integers(0, tasks - 3)), data.draw(st.integers(1, tasks))
    jacobian = random_jacobian(tasks, seed=seed)
    values = scores(jacobian, faulty)
    chosen = sorted(range(tasks), key=values.__getitem__)[:select]
    # With one neighbour the two nearest gradients have the same score.
    assume(select == tasks or sorted(values)[select] > sorted(values)[select - 1] * (1 + 1e-9))
    torch.testing.assert_close(Krum(faulty, select).combine(jacobian), jacobian[chosen].mean(0))


@pytest.mark.parametrize("faulty", [0, 1, 4])
def test_with_one_neighbour_the_choice_is_that_of_torchjd(faulty):
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(20):
        jacobian = random_jacobian(faulty + 3, seed=seed)
        # Both of the nearest pair, whose scores are the same.
        expected = aggregation.Krum(n_byzantine=faulty, n_selected=2)(jacobian)
        torch.testing.assert_close(Krum(faulty, select=2).combine(jacobian), expected)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_tasks_does_not_matter(seed):
    generator = torch.Generator().manual_seed(seed)
    jacobian = random_jacobian(7, seed=seed)
    order = torch.randperm(7, generator=generator)
    torch.testing.assert_close(Krum(2, 3).combine(jacobian[order]), Krum(2, 3).combine(jacobian))


def test_wrong_gradients_are_left_out_whatever_their_size():
    jacobian = random_jacobian(8) * 0.1 + 1
    jacobian[2], jacobian[5] = 1e6, -1e3
    gramian = jacobian @ jacobian.T
    weights = Krum(faulty=2, select=4).weights(gramian)
    assert weights[[2, 5]].tolist() == [0, 0]
    assert weights.sum().item() == pytest.approx(1)
    assert (weights > 0).sum() == 4


def test_with_too_few_tasks_it_is_the_mean(caplog):
    jacobian = random_jacobian(3)
    torch.testing.assert_close(Krum(faulty=1).combine(jacobian), jacobian.mean(0))
    torch.testing.assert_close(Krum().combine(jacobian[:1]), jacobian[0])
    Krum(faulty=1).prepare(["a", "b", "c"])
    assert "krum: with faulty=1 it needs at least 4 tasks; with 3 the update is the mean" in caplog.text
    caplog.clear()
    Krum(faulty=1).prepare(["a", "b", "c", "d"])
    assert not caplog.text


def test_equal_gradients_and_gradients_of_0_are_fine():
    assert Krum().weights(torch.ones(5, 5, dtype=torch.float64)).sum().item() == 1
    assert Krum(1, 4).weights(torch.zeros(5, 5)).sum().item() == 1
    assert Krum(1, 99).weights(torch.eye(5)).tolist() == pytest.approx([0.2] * 5)


def test_the_trunk_gets_the_combined_gradient(make_network, inputs):
    network = make_network("a", "b", "c", "d", "e")
    balancer = Krum(faulty=1, select=2)
    balancer.backward(network.losses(inputs))
    torch.testing.assert_close(network.trunk_gradient(), balancer.combine(network.jacobian(inputs)))
    assert sorted(balancer.last.weight_values.tolist()) == [0, 0, 0, 0.5, 0.5]


@pytest.mark.parametrize(("faulty", "select"), [(-1, 1), (1, 0)])
def test_bad_parameters_are_refused(faulty, select):
    with pytest.raises(UserError, match=r"krum: (faulty is -1|select is 0)"):
        Krum(faulty, select)
