import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.graddrop import GradDrop
from polytask.errors import UserError


def random_jacobian(tasks, columns, seed=0):
    return torch.randn(tasks, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, tasks):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    balancer.backward({task: row @ theta for task, row in zip(tasks, jacobian, strict=True)}, [theta])
    return theta.grad


def seed_of_the_first_step(seed=0):
    """The balancer's generator on the CPU gives a seed for each step."""
    return int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("leak", [None, 0.3, {"0": 0.0, "1": 0.5, "2": 1.0, "3": 0.1}])
def test_with_the_same_random_numbers_the_update_is_that_of_torchjd(leak):
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = random_jacobian(4, 200)
    if leak is None:
        balancer, values = GradDrop(), torch.zeros(4)
    else:
        balancer = GradDrop(leak)
        values = torch.tensor(list(leak.values()) if isinstance(leak, dict) else [leak] * 4)
    torch.manual_seed(seed_of_the_first_step())
    expected = aggregation.GradDrop(leak=values.double())(jacobian)
    torch.testing.assert_close(balancer.combine(jacobian), expected)


def test_each_coordinate_is_the_sum_of_the_positive_or_of_the_negative_gradients():
    jacobian = random_jacobian(5, 500)
    found = GradDrop().combine(jacobian)
    up, down = jacobian.clamp(min=0).sum(0), jacobian.clamp(max=0).sum(0)
    is_up, is_down = torch.isclose(found, up), torch.isclose(found, down)
    assert (is_up | is_down).all()
    assert is_up.sum() > 100
    assert is_down.sum() > 100


def test_positive_gradients_are_kept_as_often_as_their_share():
    jacobian = torch.tensor([[3.0], [-1.0]]).repeat(1, 20000)
    assert (GradDrop().combine(jacobian) > 0).float().mean().item() == pytest.approx(0.75, abs=0.02)


def test_the_expectation_is_the_sum():
    jacobian = random_jacobian(3, 5)
    balancer = GradDrop(leak=0.2)
    mean = torch.stack([balancer.combine(jacobian) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, jacobian.sum(0), rtol=0, atol=0.15)


def test_where_the_signs_agree_or_everything_leaks_it_is_the_sum():
    jacobian = random_jacobian(3, 50).abs()
    torch.testing.assert_close(GradDrop().combine(jacobian), jacobian.sum(0))
    jacobian = random_jacobian(3, 50)
    torch.testing.assert_close(GradDrop(leak=1.0).combine(jacobian), jacobian.sum(0))


def test_steps_differ_and_seeds_differ():
    jacobian = random_jacobian(3, 100)
    balancer = GradDrop()
    first = balancer.combine(jacobian)
    assert not torch.equal(balancer.combine(jacobian), first)
    assert torch.equal(GradDrop().combine(jacobian), first)
    assert not torch.equal(GradDrop(seed=1).combine(jacobian), first)


def test_the_users_random_numbers_are_left_alone():
    before = torch.get_rng_state()
    GradDrop().combine(random_jacobian(3, 100))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_leak_is_found_by_the_tasks_name():
    jacobian = random_jacobian(3, 60)
    leak = {"a": 0.0, "b": 0.4, "c": 1.0}
    expected = step(GradDrop(leak), jacobian, "abc")
    torch.testing.assert_close(step(GradDrop(leak), jacobian[[2, 0, 1]], "cab"), expected)
    torch.testing.assert_close(
        step(GradDrop(leak), jacobian[[2, 0]], "ca"), step(GradDrop({"a": 0.0, "c": 1.0}), jacobian[[0, 2]], "ac")
    )
    with pytest.raises(UserError, match="graddrop: there is no leak for task 'd'"):
        GradDrop(leak).prepare(["a", "b", "c", "d"])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), tasks=st.integers(1, 6))
def test_the_order_of_the_tasks_does_not_matter(seed, tasks):
    jacobian = random_jacobian(tasks, 30, seed)
    order = torch.randperm(tasks, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(GradDrop().combine(jacobian[order]), GradDrop().combine(jacobian))


def test_one_task_and_gradients_of_0():
    jacobian = random_jacobian(1, 30)
    torch.testing.assert_close(GradDrop().combine(jacobian), jacobian[0])
    jacobian = random_jacobian(3, 30)
    with_zero = torch.cat([jacobian, torch.zeros(1, 30, dtype=torch.float64)])
    torch.testing.assert_close(GradDrop().combine(with_zero), GradDrop().combine(jacobian))
    assert not GradDrop().combine(torch.zeros(2, 4)).any()


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    jacobian = random_jacobian(3, 100)
    whole = GradDrop()
    whole.combine(jacobian)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    fresh, copied = GradDrop(seed=7), copy.deepcopy(whole)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(3):
        expected = whole.combine(jacobian)
        assert torch.equal(fresh.combine(jacobian), expected)
        assert torch.equal(copied.combine(jacobian), expected)


@pytest.mark.parametrize("leak", [-0.1, 1.1, float("nan"), {"a": 0.5, "b": 2.0}])
def test_bad_parameters_are_refused(leak):
    with pytest.raises(UserError, match=r"graddrop: leak is (-0.1|1.1|nan|2.0), but must be from 0 to 1"):
        GradDrop(leak)
