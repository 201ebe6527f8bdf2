import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.go4align import GO4Align
from polytask.errors import UserError


def step(balancer, **losses):
    losses = {task: torch.tensor(float(v), dtype=torch.float64, requires_grad=True) for task, v in losses.items()}
    balancer.backward(losses)
    return {task: loss.grad.item() for task, loss in losses.items()}


def squared_error(values, labels):
    error = 0.0
    for group in set(labels):
        members = [v for v, label in zip(values, labels, strict=True) if label == group]
        error += sum((v - sum(members) / len(members)) ** 2 for v in members)
    return error


def best_grouping(values, groups):
    """The group means by trying all assignments."""
    labels = min(product(range(groups), repeat=len(values)), key=lambda labels: squared_error(values, labels))
    means = {}
    for group in set(labels):
        members = [v for v, label in zip(values, labels, strict=True) if label == group]
        means[group] = sum(members) / len(members)
    return [means[label] for label in labels]


class Official:
    """The rule as it is defined: multiplied shares, and the means of the best groups."""

    def __init__(self, tasks, groups, beta):
        self.shares, self.groups, self.beta = dict.fromkeys(tasks, 1 / len(tasks)), groups, beta

    def step(self, losses):
        self.shares = {task: share * math.exp(-self.beta * losses[task]) for task, share in self.shares.items()}
        total = sum(self.shares.values())
        self.shares = {task: share / total for task, share in self.shares.items()}
        indicators = [sum(losses.values()) / losses[task] * self.shares[task] for task in losses]
        return dict(zip(losses, best_grouping(indicators, self.groups), strict=True))


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 9])
def test_the_weights_are_the_group_means_of_the_definition(groups):
    balancer, official = GO4Align(groups, beta=0.05), Official("abcde", min(groups, 5), 0.05)
    generator = torch.Generator().manual_seed(groups)
    for _ in range(12):
        values = torch.rand(5, generator=generator, dtype=torch.float64).mul(3).add(0.05).tolist()
        losses = dict(zip("abcde", values, strict=True))
        expected = official.step(losses)
        assert step(balancer, **losses) == pytest.approx(expected, rel=1e-5)


def test_equal_losses_have_weights_of_1():
    assert step(GO4Align(), a=2, b=2, c=2) == pytest.approx({"a": 1, "b": 1, "c": 1})


def test_a_group_shares_the_mean_of_its_indicators():
    # Sum 12, shares 1/3: indicators 0.5, 1, 4.
    assert step(GO4Align(2, beta=0), a=8, b=3, c=1) == pytest.approx({"a": 11 / 12, "b": 11 / 12, "c": 4})


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([1e-6, 2e-6, 0.1, 0.11, 0.5, 1.0, 3.0, 1e4, 1e5]), min_size=2, max_size=6),
    groups=st.integers(2, 4),
)
def test_no_grouping_has_a_smaller_error(values, groups):
    found = step(GO4Align(groups, beta=0), **{f"t{i}": v for i, v in enumerate(values)})
    indicators = [sum(values) / v / len(values) for v in values]
    error = sum((f - i) ** 2 for f, i in zip(found.values(), indicators, strict=True))
    best = best_grouping(indicators, min(groups, len(values)))
    least = sum((b - i) ** 2 for b, i in zip(best, indicators, strict=True))
    assert error <= least * (1 + 1e-9) + 1e-28 * max(indicators) ** 2
    assert len(set(found.values())) <= groups


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), seed=st.integers(0, 100))
def test_the_order_of_the_tasks_does_not_matter(order, seed):
    straight, shuffled = GO4Align(2, beta=0.1), GO4Align(2, beta=0.1)
    for row in torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)).tolist():
        losses = dict(zip("abcd", row, strict=True))
        expected = step(straight, **losses)
        assert step(shuffled, **{task: losses[task] for task in order}) == pytest.approx(expected, rel=1e-5)


def test_a_task_without_a_loss_to_lose_has_no_weight_and_does_not_harm_the_others():
    assert step(GO4Align(3), a=2, b=2, c=0) == pytest.approx({"a": 2 / 3, "b": 2 / 3, "c": 0}, rel=1e-3)
    assert step(GO4Align(2), a=0, b=0, c=0) == {"a": 0, "b": 0, "c": 0}
    assert step(GO4Align(), only=0.3) == pytest.approx({"only": 1})


def test_tasks_in_a_step_divide_their_share_and_the_others_keep_theirs():
    balancer = GO4Align(groups=3, beta=0.5)
    step(balancer, a=1, b=1, c=1)
    for _ in range(3):
        step(balancer, a=2, b=1)
    # Of the 2/3 that a and b have, in proportion exp(-1.5) : 1.
    a = 2 / 3 * math.exp(-1.5) / (1 + math.exp(-1.5))
    shares = [a, 2 / 3 - a, 1 / 3]
    unnormalised = [share * math.exp(-0.5 * 4) for share in shares]
    expected = [3 * u / sum(unnormalised) for u in unnormalised]
    assert list(step(balancer, a=4, b=4, c=4).values()) == pytest.approx(expected, rel=1e-5)


def test_a_new_task_has_the_average_share():
    balancer = GO4Align(groups=3, beta=0.5)
    step(balancer, a=1, b=3)
    assert step(balancer, a=1, b=1, c=1)["c"] == pytest.approx(1)


def test_a_loss_that_is_not_finite_does_not_spoil_the_shares():
    balancer = GO4Align(groups=3, beta=0.5)
    step(balancer, a=1, b=math.nan)
    assert all(math.isfinite(weight) for weight in step(balancer, a=1, b=1).values())


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    whole = GO4Align(2, beta=0.3)
    for i in range(4):
        step(whole, a=1 + i, b=2, **({"c": 0.5} if i % 2 else {}))
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    fresh = GO4Align(2, beta=0.3)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for i in range(4):
        assert step(fresh, b=3, a=1 + i, c=1) == step(whole, b=3, a=1 + i, c=1)


def test_trunk_and_heads_get_the_weighted_gradients(network, inputs):
    balancer = GO4Align(2)
    balancer.backward(network.losses(inputs))
    weights = balancer.last.weight_values
    assert len(set(weights.tolist())) == 2
    torch.testing.assert_close(network.trunk_gradient(), weights @ network.jacobian(inputs))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"groups": 0}, "go4align: groups is 0"), ({"beta": -1.0}, "beta is -1.0"), ({"beta": math.nan}, "beta is nan")],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        GO4Align(**parameters)
