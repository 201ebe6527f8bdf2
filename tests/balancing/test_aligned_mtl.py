import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.aligned_mtl import AlignedMTL
from polytask.errors import UserError

seeds = st.integers(0, 10_000)
scales = st.sampled_from(["min", "median", "rmse"])


def random_jacobian(seed, tasks, size=20):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, names=None):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    names = names or [str(i) for i in range(len(jacobian))]
    balancer.backward(dict(zip(names, jacobian @ theta, strict=True)), [theta])
    return theta.grad


def alignment(scale, gramian):
    """`[K, K]`: the weights are linear in a preference of sum 1."""
    tasks = len(gramian)
    whole = AlignedMTL(scale).weights(gramian)
    rows = []
    for task in range(tasks):
        preference = torch.ones(tasks)
        preference[task] += tasks
        rows.append(2 * AlignedMTL(scale, preference=preference.tolist()).weights(gramian) - whole)
    return torch.stack(rows)


def test_the_golden_numbers_come_out(golden):
    cases = [(case, e) for case in golden for e in case["expected"] if e["method"] == "aligned_mtl"]
    assert len(cases) == 33
    for case, expected in cases:
        jacobian = torch.tensor(case["jacobian"], dtype=torch.float64)
        balancer = AlignedMTL(**expected["parameters"])
        weights = torch.tensor(expected["weights"], dtype=torch.float64)
        torch.testing.assert_close(balancer.weights(jacobian @ jacobian.T), weights, rtol=1e-8, atol=1e-12)
        update = torch.tensor(expected["update"], dtype=torch.float64)
        torch.testing.assert_close(step(balancer, jacobian), update, rtol=1e-6, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, tasks=st.integers(1, 8), scale=scales)
def test_it_agrees_with_torchjd(seed, tasks, scale):
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = random_jacobian(seed, tasks)
    expected = aggregation.AlignedMTL(scale_mode=scale)(jacobian)
    torch.testing.assert_close(AlignedMTL(scale).combine(jacobian), expected)
    preference = [1.0 + task for task in range(tasks)]
    shares = torch.tensor(preference, dtype=torch.float64) / sum(preference)
    expected = aggregation.AlignedMTL(shares, scale_mode=scale)(jacobian)
    torch.testing.assert_close(AlignedMTL(scale, preference=preference).combine(jacobian), expected)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, tasks=st.integers(1, 6), scale=scales, factor=st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_aligned_gradients_are_at_right_angles_and_of_one_length(seed, tasks, scale, factor):
    gramian = factor**2 * random_jacobian(seed, tasks) @ random_jacobian(seed, tasks).T
    values = torch.linalg.eigvalsh(gramian)
    square = {"min": values[0], "median": values[(tasks - 1) // 2], "rmse": values.mean()}[scale]
    turned = alignment(scale, gramian)
    aligned = turned @ gramian @ turned.T
    torch.testing.assert_close(aligned / square, torch.eye(tasks, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_gradients_at_right_angles_and_of_one_length_stay_as_they_are():
    gramian = 9 * torch.eye(3, dtype=torch.float64)
    for scale in ("min", "median", "rmse"):
        torch.testing.assert_close(AlignedMTL(scale).weights(gramian), torch.full((3,), 1 / 3, dtype=torch.float64))


def test_hand_worked_lengths():
    gramian = torch.diag(torch.tensor([1.0, 4, 9, 16], dtype=torch.float64))
    lengths = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    for scale, square in (("min", 1), ("median", 4), ("rmse", 7.5)):
        torch.testing.assert_close(AlignedMTL(scale).weights(gramian), square**0.5 / lengths / 4)


def test_a_preference_is_by_task_and_of_any_sum():
    gramian = torch.eye(3, dtype=torch.float64)
    balancer = AlignedMTL(preference={"b": 3, "a": 1, "c": 4})
    balancer.prepare(["a", "b", "c"])
    step(balancer, torch.eye(3, dtype=torch.float64), ["a", "b", "c"])
    assert balancer.last.weight_values.tolist() == pytest.approx([1 / 8, 3 / 8, 4 / 8])
    step(balancer, torch.eye(2, dtype=torch.float64), ["b", "a"])
    assert balancer.last.weight_values.tolist() == pytest.approx([3 / 4, 1 / 4])
    assert AlignedMTL(preference=[1, 2, 1]).weights(gramian).tolist() == pytest.approx([0.25, 0.5, 0.25])


@settings(max_examples=30, deadline=None)
@given(seed=seeds, order=st.permutations(range(5)), scale=scales)
def test_the_order_of_the_tasks_does_not_matter(seed, order, scale):
    jacobian = random_jacobian(seed, 5)
    weights = AlignedMTL(scale).weights(jacobian @ jacobian.T)
    permuted = jacobian[order]
    torch.testing.assert_close(AlignedMTL(scale).weights(permuted @ permuted.T), weights[order])


@settings(max_examples=20, deadline=None)
@given(seed=seeds, factor=st.sampled_from([1e-12, 1e12]), scale=scales)
def test_a_factor_for_all_losses_changes_no_weight(seed, factor, scale):
    gramian = random_jacobian(seed, 5) @ random_jacobian(seed, 5).T
    torch.testing.assert_close(AlignedMTL(scale).weights(factor * gramian), AlignedMTL(scale).weights(gramian))


def test_one_task_alone_keeps_its_gradient():
    jacobian = random_jacobian(0, 1)
    for scale in ("min", "median", "rmse"):
        torch.testing.assert_close(step(AlignedMTL(scale), jacobian), jacobian[0])


def test_directions_that_no_gradient_has_are_left_out():
    jacobian = random_jacobian(0, 3)
    jacobian[1] = 0
    for scale in ("min", "median", "rmse"):
        weights = AlignedMTL(scale).weights(jacobian @ jacobian.T)
        two = AlignedMTL(scale).weights(jacobian[[0, 2]] @ jacobian[[0, 2]].T)
        torch.testing.assert_close(weights[[0, 2]], two * 2 / 3)
        assert weights[1] == pytest.approx(0, abs=1e-12)


def test_equal_and_opposite_gradients_give_full_steps_and_none():
    g = random_jacobian(1, 1)[0]
    # The only direction there is has the length sqrt(2) |g|; each gradient is half of it.
    torch.testing.assert_close(AlignedMTL().combine(torch.stack([g, g])), g)
    torch.testing.assert_close(AlignedMTL().combine(torch.stack([g, -g])), torch.zeros_like(g))


def test_the_rank_tolerance_says_what_counts_as_nothing():
    gramian = torch.diag(torch.tensor([1.0, 1e-7], dtype=torch.float64))
    torch.testing.assert_close(AlignedMTL().weights(gramian)[0], torch.tensor(0.5e-3 * 0.1**0.5, dtype=torch.float64))
    assert AlignedMTL(rank_tolerance=1e-6).weights(gramian).tolist() == [0.5, 0]


def test_without_any_gradient_the_preference_is_what_is_left():
    assert AlignedMTL().weights(torch.zeros(4, 4)).tolist() == [0.25] * 4


def test_very_different_scales_stay_finite():
    jacobian = 10.0 ** torch.tensor([-6, -3, 0, 3, 6], dtype=torch.float64)[:, None] * random_jacobian(0, 5)
    for scale in ("min", "median", "rmse"):
        assert AlignedMTL(scale).weights(jacobian @ jacobian.T).isfinite().all()
        assert AlignedMTL(scale).weights(torch.eye(2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scale": "max"}, "scale is 'max'"),
        ({"rank_tolerance": -1.0}, "rank_tolerance is -1.0"),
        ({"rank_tolerance": 1.0}, "rank_tolerance is 1.0"),
        ({"preference": [1, 0]}, "preference of task '1' is 0"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        AlignedMTL(**parameters)


def test_a_preference_has_to_fit_the_tasks():
    with pytest.raises(UserError, match="no preference for task 'b'"):
        AlignedMTL(preference={"a": 1}).prepare(["a", "b"])
