import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing import DualProj
from polytask.errors import UserError

from .jacobians import ALL, HARMLESS, golden_for, relative, step, tensors


def test_the_expecteds_come_out(golden):
    cases = golden_for(golden, "dual_proj")
    assert len(cases) == 11
    for _, jacobian, parameters, expected in cases:
        assert relative(step(DualProj(**parameters), jacobian), expected) < 1e-6


@settings(max_examples=150, deadline=None)
@given(jacobian=tensors(ALL))
def test_the_update_conflicts_with_no_task(jacobian):
    update, lengths = DualProj().combine(jacobian), jacobian.norm(dim=1)
    cosines = jacobian @ update / lengths.where(lengths > 0, 1.0)
    assert (cosines >= -1e-9 * lengths.max()).all()


@settings(max_examples=100, deadline=None)
@given(jacobian=tensors(ALL), seed=st.integers(0, 1000))
def test_no_direction_without_conflict_is_nearer_to_the_mean(jacobian, seed):
    mean, update = jacobian.mean(0), DualProj().combine(jacobian)
    size = jacobian.norm(dim=1).max()
    # The rest is at right angles to the update, and has no part along any direction of the cone.
    assert abs((mean - update) @ update) <= 1e-8 * size**2
    other = DualProj(torch.rand(len(jacobian), generator=torch.Generator().manual_seed(seed)).add(0.01).tolist())
    direction = other.combine(jacobian)
    assert (mean - update) @ direction <= 1e-8 * size**2


@settings(max_examples=40, deadline=None)
@given(jacobian=tensors(HARMLESS, most_tasks=6), preferred=st.booleans())
def test_it_agrees_with_torchjd(jacobian, preferred):
    aggregation = pytest.importorskip("torchjd.aggregation")
    from torchjd.linalg import QuadprogProjector

    preference = [1.0 + i for i in range(len(jacobian))] if preferred else None
    shares = None if preference is None else torch.tensor(preference).double() / sum(preference)
    exact = QuadprogProjector(norm_eps=1e-30, reg_eps=1e-12)
    expected = aggregation.DualProj(shares, projector=exact)(jacobian)
    assert relative(DualProj(preference).combine(jacobian), expected) < 1e-6


@settings(max_examples=50, deadline=None)
@given(jacobian=tensors(ALL), seed=st.integers(0, 1000))
def test_the_order_of_the_tasks_does_not_matter(jacobian, seed):
    order = torch.randperm(len(jacobian), generator=torch.Generator().manual_seed(seed))
    size = jacobian.norm(dim=1).max().item()
    found = DualProj().combine(jacobian[order])
    torch.testing.assert_close(found, DualProj().combine(jacobian), rtol=1e-6, atol=1e-7 * size)


def test_without_conflict_it_is_the_mean_and_with_a_preference_the_weighted_mean():
    jacobian = torch.tensor([[1.0, 0], [1, 1]])
    torch.testing.assert_close(DualProj().combine(jacobian), jacobian.mean(0))
    balancer = DualProj([3.0, 1.0])
    balancer.prepare(["a", "b"])
    torch.testing.assert_close(step(balancer, jacobian, ["b", "a"]), torch.tensor([0.25, 0.75]) @ jacobian)


def test_one_task_zero_gradients_equal_and_opposite_ones():
    torch.testing.assert_close(DualProj().combine(torch.tensor([[3.0, 1]])), torch.tensor([3.0, 1]))
    torch.testing.assert_close(DualProj().combine(torch.tensor([[0.0, 0], [2, 0]])), torch.tensor([1.0, 0]))
    assert not DualProj().combine(torch.zeros(3, 2)).any()
    torch.testing.assert_close(DualProj().weights(torch.ones(2, 2)), torch.full((2,), 0.5))
    torch.testing.assert_close(DualProj().combine(torch.tensor([[3.0, 0], [-1, 0]])), torch.zeros(2), atol=1e-6, rtol=0)


def test_bad_parameters_are_refused():
    with pytest.raises(UserError, match=r"dual_proj: the preference of task '1' is 0"):
        DualProj([1.0, 0.0])
