import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.meta_balance import MetaBalance
from polytask.errors import UserError


def jacobians(steps, tasks, columns=7, seed=0):
    return torch.randn(steps, tasks, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, tasks):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    balancer.backward({task: row @ theta for task, row in zip(tasks, jacobian, strict=True)}, [theta])
    return theta.grad


def definition(sequence, sizes, relax, beta):
    """A loop over parameters and tasks, the first of which is the main one."""
    averages, updates = {}, []
    for jacobian in sequence:
        update = []
        for index, block in enumerate(jacobian.split(sizes, dim=1)):
            total = torch.zeros_like(block[0])
            for task, gradient in enumerate(block):
                average = averages.get((index, task), 0.0) * beta + (1 - beta) * gradient.norm()
                averages[index, task] = average
                total += relax * gradient * averages[index, 0] / average + (1 - relax) * gradient
            update.append(total)
        updates.append(torch.cat(update))
    return updates


@pytest.mark.parametrize(("relax", "beta"), [(0.7, 0.9), (0.2, 0.0), (1.0, 0.5), (0.0, 0.9)])
@pytest.mark.parametrize("sizes", [(), (7,), (2, 4, 1)])
def test_the_updates_are_those_of_the_definition_for_each_parameter(sizes, relax, beta):
    sequence = jacobians(6, 3)
    balancer = MetaBalance("0", relax, beta)
    balancer.sizes = sizes
    for jacobian, expected in zip(sequence, definition(sequence, list(sizes or (7,)), relax, beta), strict=True):
        torch.testing.assert_close(balancer.combine(jacobian), expected, rtol=1e-6, atol=1e-7)


def test_a_step_by_hand():
    # Lengths 5 and 10: the second is halved by half of its strength, to 3/4.
    jacobian = torch.tensor([[3.0, 4], [0, 10]])
    assert MetaBalance("0", relax=0.5).combine(jacobian).tolist() == pytest.approx([3, 4 + 7.5])
    assert MetaBalance("1", relax=0.5).combine(jacobian).tolist() == pytest.approx([4.5, 6 + 10])


@pytest.mark.parametrize(("adjust", "factors"), [("reduce", (0.5, 1)), ("enlarge", (1, 2)), ("both", (0.5, 2))])
def test_gradients_can_be_only_reduced_or_only_enlarged(adjust, factors):
    jacobian = torch.diag(torch.tensor([2.0, 4, 1]))
    found = MetaBalance("0", relax=1.0, adjust=adjust).combine(jacobian)
    assert found.tolist() == pytest.approx([2, 4 * factors[0], factors[1]])


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), seed=st.integers(0, 100))
def test_the_main_task_is_found_by_name_and_the_order_does_not_matter(order, seed):
    straight, shuffled = MetaBalance("b"), MetaBalance("b")
    for jacobian in jacobians(3, 4, seed=seed):
        expected = step(straight, jacobian, "abcd")
        found = step(shuffled, jacobian[["abcd".index(task) for task in order]], order)
        torch.testing.assert_close(found, expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(1e-3, 1e3))
def test_at_full_strength_the_scale_of_the_others_does_not_matter(seed, scale):
    plain, scaled = MetaBalance("0", relax=1.0), MetaBalance("0", relax=1.0)
    for jacobian in jacobians(3, 3, seed=seed):
        factors = torch.tensor([[1.0], [scale], [1 / scale]])
        torch.testing.assert_close(scaled.combine(jacobian * factors), plain.combine(jacobian))


def test_without_the_main_task_its_last_length_counts():
    balancer = MetaBalance("main", relax=1.0, beta=0.5)
    balancer.prepare(["main", "a"])
    step(balancer, torch.diag(torch.tensor([6.0, 3])), ("main", "a"))
    # The average of a: (3 / 2 + 3) / 2 / (3 / 4) = 3; that of the main task is 6.
    assert step(balancer, torch.tensor([[0.0, 3]]), ("a",)).tolist() == pytest.approx([0, 6])
    never = MetaBalance("main", relax=1.0)
    jacobian = jacobians(1, 2)[0]
    with pytest.raises(UserError, match="meta_balance: none of the main tasks"):
        step(never, jacobian, "ab")
    never.prepare(["a", "b", "main"])
    torch.testing.assert_close(step(never, jacobian, "ab"), jacobian.sum(0))


def test_a_task_that_comes_late_is_not_blown_up():
    balancer = MetaBalance("main", relax=1.0)
    jacobian = torch.diag(torch.tensor([2.0, 2]))
    for _ in range(50):
        step(balancer, jacobian[:1], ("main",))
    assert step(balancer, jacobian, ("main", "late")).tolist() == pytest.approx([2, 2], rel=1e-3)


def test_one_task_and_gradients_of_0():
    jacobian = jacobians(1, 3)[0]
    torch.testing.assert_close(MetaBalance("0").combine(jacobian[:1]), jacobian[0])
    expected = MetaBalance("0").combine(jacobian[:2])
    jacobian[2] = 0
    torch.testing.assert_close(MetaBalance("0").combine(jacobian), expected)
    # What the main task does not use stays as it is.
    torch.testing.assert_close(MetaBalance("2").combine(jacobian), jacobian.sum(0))


def test_a_step_that_overflows_in_float16_is_left_to_the_scaler_and_not_taken_in():
    sequence = jacobians(2, 2).float()
    balancer, untouched = MetaBalance("0"), MetaBalance("0")
    for each in (balancer, untouched):
        each.combine(sequence[0])
    assert not balancer.combine(sequence[1] * torch.tensor([[1.0], [torch.inf]])).isfinite().any()
    assert torch.equal(balancer.combine(sequence[1]), untouched.combine(sequence[1]))


def test_other_shared_parameters_than_before_are_refused():
    balancer = MetaBalance("0")
    balancer.sizes = (2, 2)
    balancer.combine(torch.ones(2, 4))
    balancer.sizes = (2,)
    with pytest.raises(UserError, match=r"meta_balance: the shared parameters were 2 tensors so far, and are 1"):
        balancer.combine(torch.ones(2, 2))


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    sequence = jacobians(6, 2)
    whole = MetaBalance("b")
    for jacobian in sequence[:3]:
        step(whole, jacobian, "ab")
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    fresh = MetaBalance("b")
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for jacobian in sequence[3:]:
        assert torch.equal(step(fresh, jacobian, "ba"), step(whole, jacobian, "ba"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"relax": 1.1}, "meta_balance: relax is 1.1"),
        ({"relax": -0.1}, "relax is -0.1"),
        ({"beta": 1.0}, "beta is 1.0"),
        ({"adjust": "none"}, "adjust is 'none'"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        MetaBalance("a", **parameters)


def test_a_main_task_that_is_no_task_is_refused():
    with pytest.raises(UserError, match=r"meta_balance: the main task 'click' is no task. Did you.*'clicks'"):
        MetaBalance("click").prepare(["clicks", "buys"])
    MetaBalance("clicks").prepare(["clicks", "buys"])
