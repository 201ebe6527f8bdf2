"""Orders that react to what epochs have shown."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.errors import UserError
from polytask.schedules import EpochReport, orders

TURNS = {("a",): 1000, ("b",): 100, ("c",): 10}


def shares(order, turns=TURNS):
    return list(order.shares(turns, 0).values())


def report(**losses):
    return EpochReport(losses=losses)


def test_by_loss_goes_by_the_part_of_the_loss_that_is_left():
    order = orders.ByLoss()
    order.epoch_end(report(a=2.0, b=10.0, c=0.5))
    assert shares(order) == pytest.approx([1 / 3] * 3)
    order.epoch_end(report(a=1.0, b=2.0, c=0.5))
    # 1/2, 1/5 and 1 are left.
    assert shares(order) == pytest.approx([0.5 / 1.7, 0.2 / 1.7, 1 / 1.7])
    order.epoch_end(report(a=0.5))
    assert shares(order) == pytest.approx([0.25 / 1.45, 0.2 / 1.45, 1 / 1.45])


def test_by_loss_to_a_power():
    order = orders.ByLoss(power=2.0)
    order.epoch_end(report(a=2.0, b=1.0))
    order.epoch_end(report(a=1.0, b=1.0))
    # c has not been trained: it counts as the mean of 1/2 and 1.
    assert shares(order) == pytest.approx(np.array([0.25, 1, 0.5625]) / 1.8125)


def test_a_group_counts_as_the_mean_of_its_tasks():
    order = orders.ByLoss()
    order.epoch_end(report(a=1.0, b=1.0, c=1.0))
    order.epoch_end(report(a=0.2, b=0.4, c=0.9))
    assert shares(order, {("a", "b"): 5, ("c",): 5}) == pytest.approx([0.25, 0.75])


def test_by_loss_leaves_losses_below_zero_out():
    order = orders.ByLoss()
    order.epoch_end(report(a=-1.0, b=1.0, c=1.0))
    order.epoch_end(report(a=-2.0, b=0.5, c=0.25))
    assert shares(order) == pytest.approx(np.array([0.375, 0.5, 0.25]) / 1.125)


GAPS = {"a/valid/accuracy": 0.8, "b/valid/mae": 2.0, "c/valid/accuracy": 0.5}
HIGHER = {"accuracy": True, "mae": False}


def scored(a, b, c):
    scores = {"a": {"accuracy": a}, "b": {"mae": b}, "c": {"accuracy": c}}
    return EpochReport(scores=scores, higher_is_better=HIGHER)


def test_by_gap_goes_by_how_far_a_task_is_behind():
    order = orders.ByGap(GAPS)
    assert shares(order) == pytest.approx([1 / 3] * 3)
    order.epoch_end(scored(a=0.6, b=3.0, c=0.7))
    # 0.2 of 0.8 and 1 of 2; c is ahead.
    assert shares(order) == pytest.approx([0.25 / 0.75, 0.5 / 0.75, 0])
    order.epoch_end(scored(a=math.nan, b=1.0, c=0.7))
    assert shares(order) == pytest.approx([1, 0, 0])
    order.epoch_end(scored(a=0.9, b=1.0, c=0.7))
    assert shares(order) == pytest.approx([1 / 3] * 3)


def test_by_gap_can_keep_a_part_for_all():
    order = orders.ByGap(GAPS, exploration=0.3)
    order.epoch_end(scored(a=0.6, b=3.0, c=0.7))
    assert shares(order) == pytest.approx([0.7 / 3 + 0.1, 1.4 / 3 + 0.1, 0.1])


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"accuracy": 1.0}, "'accuracy' in reference names no score. Write task/valid/metric"),
        ({"a/valid/accuracy": 0.0}, "reference has 0"),
        ({"a/valid/accuracy": 1.0, "a/valid/loss": 1.0}, "two values for the task 'a'"),
        ({"aa/valid/accuracy": 1.0}, "no task 'aa'. Did you mean 'a'"),
        ({"a/valid/acuracy": 1.0}, "no metric of 'a': 'acuracy'. Did you mean 'accuracy'"),
        ({"a/valid/accuracy": 1.0}, "reference has no value for 'b'"),
    ],
)
def test_a_reference_must_fit(reference, message):
    with pytest.raises(UserError, match=message):
        orders.ByGap(reference).check(None, {"a": ("accuracy", "loss"), "b": ("mae",)})


def test_learned_by_hand():
    order = orders.Learned(rate=1.0, exploration=0.0)
    order.epoch_end(report(a=1.0, b=1.0))
    assert shares(order) == pytest.approx([1 / 3] * 3)
    order.epoch_end(report(a=0.5, b=1.0))
    # Progress 0.5 and 0: quantiles 0.4 and 0.1, so rewards 1 and -1. Then half of each goes to the other, α being 1/2.
    order_of_two = list(order.shares({("a",): 1, ("b",): 1}, 1).values())
    assert order_of_two == pytest.approx([0.5, 0.5])
    order.epoch_end(report(a=0.25, b=1.0))
    # Progress 0.5 again, beside 0: rewards 1 and -1 on equal weights, α = 1/3.
    up, down = math.e, 1 / math.e
    expected = np.array([2 / 3 * up + down / 3, 2 / 3 * down + up / 3])
    assert list(order.shares({("a",): 1, ("b",): 1}, 1).values()) == pytest.approx(expected / expected.sum())


def test_learned_prefers_what_makes_progress():
    order = orders.Learned(exploration=0.3)
    for epoch in range(10):
        order.epoch_end(report(a=0.8**epoch, b=0.99**epoch, c=1.0))
    a, b, c = shares(order)
    assert a > b > c > 0.1 - 1e-9


def test_learned_takes_any_losses():
    order = orders.Learned()
    for losses in ({"a": 0.0, "b": -1.0}, {"a": 1.0, "b": math.nan}, {"a": 1.0, "b": -3.0}, {}):
        order.epoch_end(report(**losses))
        assert sum(shares(order)) == pytest.approx(1)
        assert all(math.isfinite(share) for share in shares(order))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("by_loss", {"power": 0.5}), ("by_gap", {"reference": GAPS, "exploration": 0.1}), ("learned", {})],
)
@given(
    losses=st.lists(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), min_size=1, max_size=8), cut=st.integers(0)
)
def test_an_order_goes_on_from_its_state(name, parameters, losses, cut):
    def seen(values):
        a, b, c = values
        scores = {"a": {"accuracy": a / 10}, "b": {"mae": b}, "c": {"accuracy": c / 10}}
        return EpochReport(losses=dict(zip("abc", values, strict=True)), scores=scores, higher_is_better=HIGHER)

    whole = orders.create(name, **parameters)
    cut %= len(losses) + 1
    for values in losses[:cut]:
        whole.epoch_end(seen(values))
    again = orders.create(name, **parameters)
    again.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for values in losses[cut:]:
        whole.epoch_end(seen(values))
        again.epoch_end(seen(values))
    assert shares(again) == shares(whole)
    assert sum(shares(whole)) == pytest.approx(1)
    assert min(shares(whole)) >= 0


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("by_loss", {"power": -1.0}, "power is -1"),
        ("by_gap", {"reference": {}, "exploration": 1.5}, "exploration is 1.5"),
        ("learned", {"rate": 0.0}, "rate is 0"),
        ("learned", {"exploration": -0.1}, "exploration is -0.1"),
    ],
)
def test_what_cannot_be_is_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        orders.create(name, **parameters)
