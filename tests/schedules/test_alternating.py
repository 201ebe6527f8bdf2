from collections import Counter

import numpy as np
import pytest
from scipy import stats

from polytask.errors import UserError
from polytask.schedules import Alternating, orders

ROWS = {"a": 1000, "b": 100, "c": 10}


def prepared(order="round_robin", epochs=1, **parameters):
    schedule = Alternating(order, **parameters)
    schedule.prepare(ROWS, epochs=epochs)
    return schedule


def turns(schedule, steps, epoch=0):
    return [task for (task,) in schedule.turns(epoch, steps, np.random.default_rng(epoch))]


def test_in_turn():
    schedule = prepared()
    assert turns(schedule, 7) == ["a", "b", "c", "a", "b", "c", "a"]
    assert turns(schedule, 7, epoch=1) == ["b", "c", "a", "b", "c", "a", "b"]


def test_in_turn_in_a_given_order_with_several_steps_each():
    schedule = prepared(orders.RoundRobin(["c", "a", "b", "a"]), consecutive=2)
    assert turns(schedule, 9) == ["c", "c", "a", "a", "b", "b", "a", "a", "c"]
    assert schedule.pools(0) == {("a",): 0.5, ("b",): 0.25, ("c",): 0.25}


@pytest.mark.parametrize(
    ("order", "powers"),
    [
        ("random", [1, 1, 1]),
        ("proportional", [1000, 100, 10]),
        ("square_root", [1000**0.5, 100**0.5, 10**0.5]),
        ("temperature", [1000**0.2, 100**0.2, 10**0.2]),
        ("by_loss", [1, 1, 1]),
        ("learned", [1, 1, 1]),
    ],
)
def test_tasks_are_drawn_as_the_formula_says(order, powers):
    schedule = prepared(order)
    expected = np.array(powers) / sum(powers)
    assert list(schedule.pools(0).values()) == pytest.approx(expected)
    counts = Counter(turns(schedule, 4000))
    assert stats.chisquare([counts[task] for task in ROWS], 4000 * expected).pvalue > 1e-3


def test_an_order_is_told_how_many_epochs_there_are():
    schedule = prepared("annealed", epochs=3)
    for epoch, power in enumerate([1, 0.6, 0.2]):
        expected = np.array([1000, 100, 10]) ** power
        assert list(schedule.pools(epoch).values()) == pytest.approx(expected / expected.sum())
        counts = Counter(turns(schedule, 4000, epoch))
        shares = 4000 * expected / expected.sum()
        assert stats.chisquare([counts[task] for task in ROWS], shares).pvalue > 1e-3


def test_a_schedule_goes_by_scores_where_its_order_does():
    assert not prepared().wants_scores
    assert Alternating(orders.ByGap({"a/valid/mae": 1.0})).wants_scores


@pytest.mark.parametrize(
    ("order", "parameters", "message"),
    [
        ("round_robin", {"consecutive": 0}, "consecutive is 0"),
        ("by_luck", {}, "There is no order 'by_luck'"),
        (orders.RoundRobin(["a", "b", "cc"]), {}, "no task 'cc'. Did you mean 'c'"),
        (orders.RoundRobin(["a", "c"]), {}, "lacks the task 'b', which would never be trained"),
    ],
)
def test_what_cannot_be_is_refused(order, parameters, message):
    with pytest.raises(UserError, match=message):
        prepared(order, **parameters)
