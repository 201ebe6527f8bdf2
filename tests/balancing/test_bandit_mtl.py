import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.bandit_mtl import BanditMTL
from polytask.errors import UserError


def step(balancer, **losses):
    losses = {task: torch.tensor(float(v), dtype=torch.float64, requires_grad=True) for task, v in losses.items()}
    balancer.backward(losses)
    return {task: loss.grad.item() for task, loss in losses.items()}


def divergence(p):
    return sum(x * math.log(x * len(p)) for x in p if x > 0)


def mirror_ascent(p, losses, rho, eta):
    """The paper's step: multiply, then find the multiplier of the bounds by bisection."""
    q = [x * math.exp(eta * loss) for x, loss in zip(p, losses, strict=True)]

    def at(multiplier):
        powers = [x ** (1 / (1 + multiplier)) for x in q]
        return [x / sum(powers) for x in powers]

    if divergence(at(0)) <= rho:
        return at(0)
    low, high = 0.0, 1.0
    while divergence(at(high)) > rho:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if divergence(at(middle)) > rho else (low, middle)
    return at(high)


@pytest.mark.parametrize("rho", [0.01, 0.2, 5.0])
def test_the_weights_follow_the_definition_of_mirror_ascent(rho):
    balancer, p = BanditMTL(rho, eta=0.3), [0.25] * 4
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        losses = torch.rand(4, generator=generator, dtype=torch.float64).mul(3).tolist()
        assert list(step(balancer, **dict(zip("abcd", losses, strict=True))).values()) == pytest.approx(p, rel=1e-4)
        p = mirror_ascent(p, losses, rho, 0.3)


def test_two_steps_by_hand():
    balancer = BanditMTL(rho=10, eta=1.0)
    assert step(balancer, a=math.log(3), b=0) == pytest.approx({"a": 0.5, "b": 0.5})
    assert step(balancer, a=0, b=math.log(2)) == pytest.approx({"a": 0.75, "b": 0.25})
    assert step(balancer, a=1, b=1) == pytest.approx({"a": 0.6, "b": 0.4})


@settings(max_examples=40, deadline=None)
@given(
    losses=st.lists(st.floats(0, 1e6), min_size=2, max_size=8),
    rho=st.floats(1e-3, 3),
    eta=st.floats(1e-3, 10),
    steps=st.integers(1, 4),
)
def test_the_distribution_stays_within_the_bounds(losses, rho, eta, steps):
    balancer = BanditMTL(rho, eta)
    for _ in range(steps):
        step(balancer, **{f"t{i}": loss for i, loss in enumerate(losses)})
    p = list(step(balancer, **{f"t{i}": 1 for i in range(len(losses))}).values())
    assert sum(p) == pytest.approx(1, rel=1e-6)
    assert divergence(p) <= rho * (1 + 1e-3) + 1e-5


def test_hard_tasks_get_more_up_to_the_bounds():
    balancer = BanditMTL(rho=0.1, eta=0.5)
    for _ in range(200):
        weights = step(balancer, a=3, b=1, c=1)
    assert weights["a"] > weights["b"] == pytest.approx(weights["c"])
    assert divergence(list(weights.values())) == pytest.approx(0.1, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), seed=st.integers(0, 100))
def test_the_order_of_the_tasks_does_not_matter(order, seed):
    straight, shuffled = BanditMTL(0.1), BanditMTL(0.1)
    for row in torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)).mul(5).tolist():
        losses = dict(zip("abcd", row, strict=True))
        expected = step(straight, **losses)
        assert step(shuffled, **{task: losses[task] for task in order}) == pytest.approx(expected, rel=1e-4)


def test_tasks_in_a_step_divide_their_share_and_the_others_keep_theirs():
    balancer = BanditMTL(rho=10, eta=1.0)
    step(balancer, a=0, b=0, c=0)
    step(balancer, a=math.log(3), b=0)
    assert step(balancer, a=1, b=1, c=1) == pytest.approx({"a": 0.5, "b": 1 / 6, "c": 1 / 3})
    assert step(balancer, a=1, c=1) == pytest.approx({"a": 0.6, "c": 0.4})


def test_one_task_and_losses_of_0():
    assert step(BanditMTL(), only=3) == {"only": 1}
    balancer = BanditMTL()
    step(balancer, a=0, b=0)
    assert step(balancer, a=0, b=0) == pytest.approx({"a": 0.5, "b": 0.5})


def test_a_loss_that_is_not_finite_does_not_spoil_the_distribution():
    balancer = BanditMTL()
    step(balancer, a=1, b=math.inf)
    step(balancer, a=1, b=math.nan)
    assert sum(step(balancer, a=1, b=1).values()) == pytest.approx(1)


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    whole = BanditMTL(0.1)
    for i in range(5):
        step(whole, a=1 + i, b=2, **({"c": 5} if i % 2 else {}))
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    fresh = BanditMTL(0.1)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for i in range(4):
        assert step(fresh, b=3, a=1 + i, c=1) == step(whole, b=3, a=1 + i, c=1)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["rho", "eta"])
def test_bad_parameters_are_refused(name, value):
    with pytest.raises(UserError, match=f"bandit_mtl: {name} is {value}"):
        BanditMTL(**{name: value})
