import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.gradvac import GradVac, PairTargets, vaccinated
from polytask.balancing.pcgrad import PCGrad
from polytask.errors import UserError

seeds = st.integers(0, 10_000)


def random_jacobian(seed, tasks, size=7):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, names=None):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    names = names or [str(i) for i in range(len(jacobian))]
    balancer.backward(dict(zip(names, jacobian @ theta, strict=True)), [theta])
    return theta.grad


def vaccine(jacobian, targets, orders, beta):
    """The paper's algorithm, on the gradients themselves; the targets are changed in place."""
    update = torch.zeros_like(jacobian[0])
    for i, order in enumerate(orders):
        g = jacobian[i].clone()
        for j in order:
            other = jacobian[j]
            cosine = g @ other / (g.norm() * other.norm())
            target = targets[i, j].clone()
            if cosine < target:
                numerator = g.norm() * (target * (1 - cosine**2).sqrt() - cosine * (1 - target**2).sqrt())
                g = g + numerator / (other.norm() * (1 - target**2).sqrt()) * other
            targets[i, j] = (1 - beta) * target + beta * cosine
        update += g
    return update


def targets_of(balancer, *names):
    return balancer.targets.read(names, torch.device("cpu")).double()


@pytest.mark.parametrize("beta", [0.5, 0.01, 1.0])
def test_the_updates_and_targets_follow_the_recurrence_on_the_gradients_themselves(beta):
    balancer = GradVac(beta)
    balancer.targets.double()
    targets = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(12):
        jacobian = random_jacobian(i, 4, size=3) + random_jacobian(99, 1, size=3)
        expected = vaccine(jacobian, targets, balancer.orders.draw(4).tolist(), beta)
        torch.testing.assert_close(step(balancer, jacobian), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(targets_of(balancer, "0", "1", "2", "3"), targets, rtol=1e-6, atol=1e-6)


def test_a_hand_worked_pair():
    # A cosine of 0, with a target of 3/5: g_1 + t / sqrt(1 - t²) g_2 = g_1 + 3/4 g_2.
    targets = torch.tensor([[0, 0.6], [-0.5, 0]])
    found = vaccinated(torch.eye(2, dtype=torch.float64), targets, torch.tensor([[1], [0]]))
    torch.testing.assert_close(found.weights, torch.tensor([1.0, 1.75], dtype=torch.float64))
    assert found.cosines.tolist() == [[0, 0], [0, 0]]
    assert found.met.tolist() == [[False, True], [True, False]]


@settings(max_examples=50, deadline=None)
@given(
    seed=seeds,
    target=st.floats(-0.999, 0.999),
    lengths=st.sampled_from([(1.0, 1.0), (1e6, 1.0), (1e6, 1e-6), (1e-6, 1e-6)]),
)
def test_a_cosine_below_the_target_is_brought_to_it_and_one_above_stays(seed, target, lengths):
    jacobian = torch.tensor(lengths, dtype=torch.float64)[:, None] * random_jacobian(seed, 2)
    targets = torch.tensor([[0, target], [-2.0, 0]], dtype=torch.float64)
    weights = vaccinated(jacobian @ jacobian.T, targets, torch.tensor([[1], [0]])).weights
    changed = jacobian[0] + (weights[1] - 1) * jacobian[1]
    before = torch.cosine_similarity(jacobian[0], jacobian[1], dim=0)
    assert torch.cosine_similarity(changed, jacobian[1], dim=0).item() == pytest.approx(
        max(target, before.item()), abs=1e-6
    )
    assert weights[0] == 1


@settings(max_examples=30, deadline=None)
@given(seed=seeds, tasks=st.integers(1, 6))
def test_the_first_step_is_that_of_pcgrad(seed, tasks):
    jacobian = random_jacobian(seed, tasks, size=3)
    torch.testing.assert_close(GradVac(seed=seed).combine(jacobian), PCGrad(seed=seed).combine(jacobian))


def test_two_tasks_agree_with_torchjd_from_step_to_step():
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours, theirs = GradVac(0.3), aggregation.GradVac(0.3)
    ours.targets.double()
    for i in range(20):
        jacobian = random_jacobian(i, 2, size=3) + random_jacobian(77, 1, size=3)
        torch.testing.assert_close(step(ours, jacobian), theirs(jacobian), rtol=1e-5, atol=1e-6)


def test_targets_follow_the_cosines_of_tasks_that_agree():
    balancer = GradVac(0.5)
    jacobian = torch.tensor([[1.0, 0], [0.8, 0.6]], dtype=torch.float64)
    for expected in (0.4, 0.6, 0.7, 0.75):
        step(balancer, jacobian, ["a", "b"])
        torch.testing.assert_close(
            targets_of(balancer, "a", "b"), torch.tensor([[0, expected], [expected, 0]], dtype=torch.float64)
        )


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_the_order_of_two_tasks_does_not_matter(seed):
    straight, swapped = GradVac(), GradVac()
    for i in range(3):
        jacobian = random_jacobian(seed + i, 2, size=3)
        torch.testing.assert_close(step(swapped, jacobian.flip(0), ["b", "a"]), step(straight, jacobian, ["a", "b"]))
    torch.testing.assert_close(targets_of(swapped, "a", "b"), targets_of(straight, "a", "b"))


@settings(max_examples=20, deadline=None)
@given(seed=seeds, factor=st.sampled_from([1e-12, 1e12]))
def test_a_factor_for_all_losses_changes_no_weight(seed, factor):
    jacobian = random_jacobian(seed, 5, size=4)
    gramian = jacobian @ jacobian.T
    torch.testing.assert_close(GradVac().weights(factor * gramian), GradVac().weights(gramian))


def test_pairs_with_a_task_that_is_absent_keep_their_targets():
    balancer = GradVac()
    step(balancer, random_jacobian(0, 3), ["a", "b", "c"])
    before = targets_of(balancer, "a", "b", "c")
    assert (before != 0).sum() == 6
    step(balancer, random_jacobian(1, 2), ["c", "a"])
    step(balancer, random_jacobian(2, 2), ["d", "a"])
    after = targets_of(balancer, "a", "b", "c")
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[:, 1], before[:, 1])
    assert (after[0, 2], after[2, 0]) != (before[0, 2], before[2, 0])


def test_one_task_alone_keeps_its_gradient():
    balancer = GradVac()
    for i in range(3):
        jacobian = random_jacobian(i, 1)
        torch.testing.assert_close(step(balancer, jacobian), jacobian[0])


def test_a_gradient_of_zero_changes_nothing_and_leaves_the_targets():
    balancer = GradVac(seed=1)
    jacobian = random_jacobian(3, 3, size=2)
    jacobian[1] = 0
    update = step(balancer, jacobian, ["a", "b", "c"])
    torch.testing.assert_close(update, GradVac().combine(jacobian[[0, 2]]))
    assert balancer.last.weights["b"] == 1
    targets = targets_of(balancer, "a", "b", "c")
    assert (targets != 0).tolist() == [[False, False, True], [False, False, False], [True, False, False]]


def test_opposite_and_equal_gradients_stay_finite_for_ever():
    g = random_jacobian(0, 1)[0]
    for jacobian in (torch.stack([g, -3 * g]), torch.stack([g, g, 2 * g]), torch.stack([g, g, -g])):
        balancer = GradVac()
        for _ in range(40):
            update = step(balancer, jacobian)
            assert update.isfinite().all()
    balancer = GradVac()
    for _ in range(40):
        step(balancer, torch.stack([g, g]), ["a", "b"])
    # Then they oppose each other for once.
    assert step(balancer, torch.stack([g, -g]), ["a", "b"]).isfinite().all()


def test_weights_stay_until_the_step_is_over():
    balancer = GradVac()
    jacobian = random_jacobian(3, 4, size=2)
    weights = balancer.weights(jacobian @ jacobian.T)
    assert torch.equal(balancer.weights(jacobian @ jacobian.T), weights)
    step(balancer, jacobian)
    assert not torch.equal(balancer.weights(jacobian @ jacobian.T), weights)


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, steps):
        found = []
        for i in steps:
            names = ["a", "b.c", "type", "d"] if i % 3 else ["d", "a"]
            found.append(step(balancer, random_jacobian(i, len(names), size=3), names))
        return found

    whole = train(GradVac(), range(8))
    first, second = GradVac(), GradVac(seed=4)
    train(first, range(4))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for ours, expected in zip(train(second, range(4, 8)), whole[4:], strict=True):
        assert torch.equal(ours, expected)


def test_preparing_makes_room_once():
    targets = PairTargets()
    targets.add(["a", "b"])
    targets.write(["b", "a"], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    targets.add(["b", "a", "c"])
    assert targets.read(["a", "b", "c"], torch.device("cpu")).tolist() == [[4, 3, 0], [2, 1, 0], [0, 0, 0]]
    balancer = GradVac()
    balancer.prepare(["a"])
    assert balancer.state_dict()["targets.value"].shape == (1, 1)


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan")])
def test_a_bad_rate_is_refused(beta):
    with pytest.raises(UserError, match=r"gradvac: beta is .*from 0 to 1"):
        GradVac(beta)
