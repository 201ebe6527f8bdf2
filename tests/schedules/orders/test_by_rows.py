import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.errors import UserError
from polytask.schedules import orders

SIZES = {("a",): 1000, ("b",): 100, ("c", "d"): 10}


def test_a_low_temperature_is_no_overflow():
    shares = orders.Temperature(1e-3).shares(SIZES, 0)
    assert list(shares.values()) == pytest.approx([1, 0, 0])


def test_annealing_goes_from_proportional_to_more_even():
    order = orders.create("annealed")
    order.prepare(5)
    assert order.shares(SIZES, 0) == orders.Proportional().shares(SIZES, 0)
    middle, last = order.shares(SIZES, 2), order.shares(SIZES, 4)
    assert middle["a",] / middle["b",] == pytest.approx(10**0.6)
    assert last["a",] / last["b",] == pytest.approx(10**0.2)
    assert order.shares(SIZES, 9) == last


def test_annealing_in_one_epoch_is_its_start():
    order = orders.Annealed(start=0.5, end=0.0)
    order.prepare(1)
    assert order.shares(SIZES, 0) == pytest.approx(orders.SquareRoot().shares(SIZES, 0))


@given(
    rows=st.lists(st.integers(0, 10**9), min_size=1, max_size=6),
    name=st.sampled_from(["random", "proportional", "square_root", "temperature", "annealed", "round_robin"]),
)
def test_shares_sum_to_one_and_grow_with_the_rows(rows, name):
    sizes = {(str(index),): size for index, size in enumerate(rows)}
    shares = orders.create(name).shares(sizes, 0)
    assert math.isclose(sum(shares.values()), 1)
    ranked = sorted(sizes, key=lambda turn: sizes[turn])
    if name != "round_robin":
        assert all(shares[one] <= shares[other] + 1e-12 for one, other in pairwise(ranked))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("temperature", {"temperature": 0.0}, "temperature is 0, but must be above 0"),
        ("temperature", {"temperature": math.nan}, "temperature is nan, but must be above 0"),
        ("annealed", {"start": -1.0}, "start is -1, but must be at least 0"),
        ("annealed", {"end": math.nan}, "end is nan, but must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        orders.create(name, **parameters)
