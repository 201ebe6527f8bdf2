import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing import UPGrad
from polytask.errors import UserError

from .jacobians import ALL, HARMLESS, golden_for, relative, step, tensors

INEXACT = {"scales_6x25": 1e-3}
"""Golden numbers that are off, which rational arithmetic proves (`solvers/test_dual_cone.py`)."""


def test_the_expecteds_come_out(golden):
    cases = golden_for(golden, "upgrad")
    assert len(cases) == 11
    for name, jacobian, parameters, expected in cases:
        found = step(UPGrad(**parameters), jacobian)
        assert relative(found, expected) < INEXACT.get(name, 1e-6)


@settings(max_examples=150, deadline=None)
@given(jacobian=tensors(ALL))
def test_the_update_conflicts_with_no_task(jacobian):
    update, lengths = UPGrad().combine(jacobian), jacobian.norm(dim=1)
    cosines = jacobian @ update / lengths.where(lengths > 0, 1.0)
    assert (cosines >= -1e-9 * lengths.max()).all()


@settings(max_examples=40, deadline=None)
@given(jacobian=tensors(HARMLESS, most_tasks=6), preferred=st.booleans())
def test_it_agrees_with_torchjd(jacobian, preferred):
    aggregation = pytest.importorskip("torchjd.aggregation")
    from torchjd.linalg import QuadprogProjector

    preference = [1.0 + i for i in range(len(jacobian))] if preferred else None
    shares = None if preference is None else torch.tensor(preference).double() / sum(preference)
    exact = QuadprogProjector(norm_eps=1e-30, reg_eps=1e-12)
    expected = aggregation.UPGrad(shares, projector=exact)(jacobian)
    assert relative(UPGrad(preference).combine(jacobian), expected) < 1e-6


@settings(max_examples=30, deadline=None)
@given(jacobian=tensors(HARMLESS), seed=st.integers(0, 1000))
def test_the_update_is_linear_in_the_scales_of_the_losses(jacobian, seed):
    one, other = torch.rand(2, len(jacobian), 1, generator=torch.Generator().manual_seed(seed)).double().add(0.01)
    parts = UPGrad().combine(one * jacobian) + UPGrad().combine(other * jacobian)
    assert relative(UPGrad().combine((one + other) * jacobian), parts) < 1e-6


@settings(max_examples=50, deadline=None)
@given(jacobian=tensors(ALL), seed=st.integers(0, 1000))
def test_the_order_of_the_tasks_does_not_matter(jacobian, seed):
    order = torch.randperm(len(jacobian), generator=torch.Generator().manual_seed(seed))
    size = jacobian.norm(dim=1).max().item()
    found = UPGrad().combine(jacobian[order])
    torch.testing.assert_close(found, UPGrad().combine(jacobian), rtol=1e-6, atol=1e-7 * size)


def test_without_conflict_it_is_the_mean_and_with_a_preference_the_weighted_mean():
    jacobian = torch.tensor([[1.0, 0], [1, 1]])
    torch.testing.assert_close(UPGrad().combine(jacobian), jacobian.mean(0))
    balancer = UPGrad({"a": 3.0, "b": 1.0})
    balancer.prepare(["a", "b"])
    torch.testing.assert_close(step(balancer, jacobian, ["b", "a"]), torch.tensor([0.25, 0.75]) @ jacobian)
    torch.testing.assert_close(step(balancer, jacobian[:1], ["b"]), jacobian[0])


def test_one_task_zero_gradients_equal_and_opposite_ones():
    torch.testing.assert_close(UPGrad().combine(torch.tensor([[3.0, 1]])), torch.tensor([3.0, 1]))
    torch.testing.assert_close(UPGrad().combine(torch.tensor([[0.0, 0], [2, 0]])), torch.tensor([1.0, 0]))
    assert not UPGrad().combine(torch.zeros(3, 2)).any()
    torch.testing.assert_close(UPGrad().weights(torch.ones(2, 2)), torch.full((2,), 0.5))
    torch.testing.assert_close(UPGrad().combine(torch.tensor([[1.0, 0], [-1, 0]])), torch.zeros(2))


def test_bad_parameters_are_refused():
    with pytest.raises(UserError, match=r"upgrad: the preference of task 'a' is -1"):
        UPGrad({"a": -1.0})
    with pytest.raises(UserError, match=r"upgrad: there is no preference for task 'b'"):
        UPGrad({"a": 1.0}).prepare(["a", "b"])
