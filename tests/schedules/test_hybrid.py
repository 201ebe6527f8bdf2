import json
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from polytask.errors import UserError
from polytask.schedules import EpochReport, Hybrid, orders

ROWS = {"a": 1000, "b": 100, "c": 10}
UNION = {("a",): 1000, ("b",): 100, ("c",): 10, ("a", "c"): 1005, ("a", "b"): 1000, ("b", "c"): 105}


def prepared(groups, order="round_robin", **parameters):
    schedule = Hybrid(groups, order, **parameters)
    schedule.prepare(ROWS, union=lambda turn: UNION[turn] if len(turn) < 3 else 1050)
    return schedule


def turns(schedule, steps, epoch=0):
    return list(schedule.turns(epoch, steps, np.random.default_rng(epoch)))


def cosines(ab, ac, bc):
    return np.array([[1, ab, ac], [ab, 1, bc], [ac, bc, 1]])


def test_groups_take_turns_with_their_tasks_in_the_models_order():
    schedule = prepared([["c", "a"], ["b"]], consecutive=2)
    assert turns(schedule, 5) == [("a", "c"), ("a", "c"), ("b",), ("b",), ("a", "c")]
    assert schedule.pools(3) == {("a", "c"): 0.5, ("b",): 0.5}
    assert schedule.probes == 0


def test_a_group_has_the_size_of_the_rows_labelled_for_any_of_its_tasks():
    schedule = prepared([["a", "c"], ["b"]], "proportional")
    expected = np.array([1005, 100]) / 1105
    assert list(schedule.pools(0).values()) == pytest.approx(expected)
    counts = Counter(turns(schedule, 4000))
    assert stats.chisquare([counts["a", "c"], counts["b",]], 4000 * expected).pvalue > 1e-3


def test_without_a_count_of_its_own_a_group_has_the_sum_of_its_tasks_rows():
    schedule = Hybrid([["a", "c"], ["b"]], "proportional")
    schedule.prepare(ROWS)
    assert schedule.pools(0)["a", "c"] == pytest.approx(1010 / 1110)


def test_a_task_stands_for_its_group_in_a_sequence():
    schedule = prepared([["a", "c"], ["b"]], orders.RoundRobin(["c", "b", "b"]))
    assert turns(schedule, 4) == [("a", "c"), ("b",), ("b",), ("a", "c")]


def test_groups_follow_the_gradients():
    schedule = prepared("affinity", decay=0.5)
    assert schedule.probes == 4
    assert turns(schedule, 2) == [("a", "b", "c")] * 2
    schedule.epoch_end(EpochReport(cosines=cosines(0.4, -0.3, -0.2)))
    assert schedule.possible() == (("a", "b"), ("c",))
    # Half of the old and half of the new: ab -0.1, ac 0.3, bc -0.05.
    schedule.epoch_end(EpochReport(cosines=cosines(-0.6, 0.9, 0.1)))
    assert schedule.possible() == (("a", "c"), ("b",))
    schedule.epoch_end(EpochReport())
    assert schedule.possible() == (("a", "c"), ("b",))


def test_a_pair_that_was_not_measured_keeps_its_cosine():
    schedule = prepared("affinity")
    schedule.epoch_end(EpochReport(cosines=cosines(0.4, np.nan, -0.2)))
    schedule.epoch_end(EpochReport(cosines=cosines(np.nan, -0.9, -0.2)))
    assert schedule.possible() == (("a", "b"), ("c",))


def test_the_number_of_groups_can_be_given():
    schedule = prepared("affinity", number=2, decay=0.0)
    schedule.epoch_end(EpochReport(cosines=cosines(-0.5, -0.9, -0.2)))
    assert schedule.possible() == (("a",), ("b", "c"))
    schedule.epoch_end(EpochReport(cosines=cosines(np.nan, np.nan, np.nan)))
    assert len(schedule.possible()) == 2


def test_groups_are_in_the_log(caplog):
    schedule = prepared("affinity", threshold=0.1)
    with caplog.at_level("INFO", logger="polytask"):
        schedule.epoch_end(EpochReport(cosines=cosines(0.4, -0.3, -0.2)))
    assert "Groups from epoch 2 on: a, b | c" in caplog.text


def test_it_goes_on_from_its_state():
    whole = prepared("affinity", "by_loss")
    reports = [
        EpochReport({"a": 2.0, "b": 1.0, "c": 1.0}, cosines=cosines(0.4, -0.3, np.nan)),
        EpochReport({"a": 1.0, "b": 0.9, "c": 0.8}, cosines=cosines(-0.6, 0.9, 0.1)),
        EpochReport({"a": 0.7, "b": 0.8, "c": 0.8}, cosines=cosines(-0.6, 0.1, 0.8)),
    ]
    for cut in range(3):
        whole, again = prepared("affinity", "by_loss"), prepared("affinity", "by_loss")
        for report in reports[:cut]:
            whole.epoch_end(report)
        again.load_state_dict(json.loads(json.dumps(whole.state_dict())))
        assert turns(again, 20, cut) == turns(whole, 20, cut)
        for report in reports[cut:]:
            whole.epoch_end(report)
            again.epoch_end(report)
        assert again.pools(3) == whole.pools(3)


@pytest.mark.parametrize(
    ("groups", "parameters", "message"),
    [
        ([["a", "bb"], ["c"]], {}, "groups names no task 'bb'. Did you mean 'b'"),
        ([["a"], ["c"]], {}, "groups lacks the task 'b', which would never be trained"),
        ([["a", "b"], ["b", "c"]], {}, "the task 'b' is in group 1 and in group 2"),
        ([["a", "b", "b"], ["c"]], {}, "the task 'b' is twice in group 1"),
        ([["a", "b", "c"], []], {}, "group 2 of groups has no task"),
        ("affinities", {}, "groups is 'affinities', but must be a list of lists of tasks, or 'affinity'"),
        ("affinity", {"number": 2, "threshold": 0.1}, "number or threshold, not both"),
        ("affinity", {"number": 0}, "number is 0"),
        ("affinity", {"number": 4}, "number is 4, but there are 3 tasks"),
        ("affinity", {"threshold": 1.5}, "threshold is 1.5"),
        ("affinity", {"decay": 1.0}, "decay is 1"),
        ("affinity", {"probes": 0}, "probes is 0"),
        ("affinity", {"order": orders.RoundRobin(["a", "b", "c"])}, "here groups are found while training"),
        ([["a", "b"], ["c"]], {"number": 2}, "for groups: affinity, but here the groups are given"),
    ],
)
def test_what_cannot_be_is_refused(groups, parameters, message):
    with pytest.raises(UserError, match=message):
        prepared(groups, **parameters)
