import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from polytask.errors import UserError
from polytask.schedules import Alternating, Curriculum, EpochReport, Freeze, Hybrid, Joint, orders

ROWS = {"a": 1000, "b": 100, "c": 10}
AFTER_A = {"after": "a", "metric": "accuracy", "reaches": 0.8}


def prepared(start, within="joint", epochs=5, **parameters):
    schedule = Curriculum(start, within, **parameters)
    schedule.prepare(ROWS, epochs=epochs)
    return schedule


def turns(schedule, steps, epoch=0):
    return list(schedule.turns(epoch, steps, np.random.default_rng(epoch)))


def scored(**accuracies):
    scores = {task: {"accuracy": value, "loss": 1 - value} for task, value in accuracies.items()}
    gains = {task: value / 2 for task, value in accuracies.items()}
    return EpochReport(scores=scores, gains=gains, higher_is_better={"accuracy": True, "loss": False})


def test_tasks_join_at_their_epochs():
    schedule = prepared({"b": 3, "c": 2})
    found = []
    for epoch in range(4):
        found.append(turns(schedule, 2, epoch))
        assert schedule.pools(epoch) == {found[-1][0]: 1}
        schedule.epoch_end(EpochReport())
    assert found == [[("a",)] * 2, [("a", "c")] * 2, [("a", "b", "c")] * 2, [("a", "b", "c")] * 2]
    assert schedule.remarks() == []
    assert not schedule.wants_scores


def test_a_task_joins_when_another_is_good_enough():
    schedule = prepared({"b": AFTER_A, "c": {"after": "b", "metric": "loss", "reaches": 0.5}})
    assert schedule.wants_scores
    reports = [scored(a=0.7, b=0.9), scored(a=0.8, b=0.9), scored(a=0.1, b=0.4), scored(a=0.1, b=0.6)]
    found = []
    for epoch, report in enumerate(reports):
        found.append(turns(schedule, 1, epoch)[0])
        schedule.epoch_end(report)
    # b's good score of the first epochs does not count: it had not been trained.
    assert found == [("a",), ("a",), ("a", "b"), ("a", "b")]
    assert turns(schedule, 1, 4) == [("a", "b", "c")]


def test_a_task_can_wait_for_a_gain():
    schedule = prepared({"b": {"after": "a", "metric": "gain", "reaches": 0.4}, "c": 1})
    schedule.epoch_end(scored(a=0.7))
    assert turns(schedule, 1, 1) == [("a", "c")]
    schedule.epoch_end(scored(a=0.9))
    assert turns(schedule, 1, 2) == [("a", "b", "c")]


def test_what_waits_counts_as_there_in_what_is_foreseen():
    schedule = prepared({"b": AFTER_A, "c": 4})
    assert [set(schedule.pools(epoch)) for epoch in range(4)] == [
        {("a",)},
        {("a", "b")},
        {("a", "b")},
        {("a", "b", "c")},
    ]


def test_a_task_that_has_never_started_is_remarked():
    schedule = prepared({"b": AFTER_A, "c": 3})
    schedule.epoch_end(scored(a=0.5))
    schedule.epoch_end(scored(a=0.9))
    waiting, late = schedule.remarks()
    assert waiting == "The task 'b' has never been trained: 'a' did not reach accuracy 0.8."
    assert late == "The task 'c' has never been trained: it was to start in epoch 3."
    schedule.epoch_end(scored(a=0.9))
    assert schedule.remarks() == []


@pytest.mark.parametrize("order", ["round_robin", "temperature", "random"])
def test_the_tasks_that_are_there_take_turns_as_they_would_without_the_others(order):
    schedule = prepared({"a": 3}, Alternating(order))
    alone = Alternating(order)
    alone.prepare({"b": 100, "c": 10})
    assert schedule.pools(0) == pytest.approx(alone.pools(0))
    found = turns(schedule, 3000)
    assert len(found) == 3000
    counts, expected = Counter(found), alone.pools(0)
    assert set(counts) == set(expected)
    shares = [3000 * share for share in expected.values()]
    assert stats.chisquare([counts[turn] for turn in expected], shares).pvalue > 1e-3
    assert turns(schedule, 20, 2) == turns(schedule.within, 20, 2)


def test_tasks_that_hardly_ever_have_a_turn_still_fill_an_epoch_of_their_own():
    order = orders.ByGap({"a/valid/accuracy": 0.9, "b/valid/accuracy": 0.9, "c/valid/accuracy": 0.9})
    schedule = prepared({"a": 4}, Alternating(order))
    schedule.epoch_end(scored(a=0.1, b=0.95, c=0.95))
    assert schedule.within.pools(1) == pytest.approx({("a",): 1, ("b",): 0, ("c",): 0})
    assert Counter(turns(schedule, 400, 1)).keys() == {("b",), ("c",)}
    assert schedule.pools(1) == {("b",): 0.5, ("c",): 0.5}


def test_groups_lose_the_tasks_that_are_not_there_yet():
    schedule = prepared({"a": 2, "b": 3}, Hybrid([["a", "c"], ["b"]]))
    assert turns(schedule, 2) == [("c",), ("c",)]
    schedule.epoch_end(EpochReport())
    assert turns(schedule, 2, 1) == [("a", "c"), ("a", "c")]


@given(steps=st.integers(1, 40), starts=st.lists(st.integers(1, 4), min_size=2, max_size=2))
def test_an_epoch_is_full_and_has_no_task_too_early(steps, starts):
    start = dict(zip("bc", starts, strict=True))
    schedule = prepared(start, Alternating("proportional"))
    for epoch in range(4):
        found = turns(schedule, steps, epoch)
        assert len(found) == steps
        assert all(start.get(task, 1) <= epoch + 1 for turn in found for task in turn)
        assert set(found) <= set(schedule.pools(epoch))
        schedule.epoch_end(EpochReport())


def test_it_goes_on_from_its_state():
    reports = [scored(a=0.5), scored(a=0.9), scored(a=0.9, b=0.6)]
    for cut in range(4):
        whole, again = (prepared({"b": AFTER_A, "c": 3}, Alternating("by_loss")) for _ in range(2))
        for report in reports[:cut]:
            whole.epoch_end(report)
        again.load_state_dict(json.loads(json.dumps(whole.state_dict())))
        for report in reports[cut:]:
            whole.epoch_end(report)
            again.epoch_end(report)
        assert again.pools(3) == whole.pools(3)
        assert turns(again, 9, 3) == turns(whole, 9, 3)


def test_stages_are_frozen_for_some_epochs():
    schedule = prepared({"b": 2}, freeze={"layer1": (1, 2), "layer2": (3, None)})
    assert schedule.freezes == (Freeze("layer1", 0, 2), Freeze("layer2", 2, None))


def test_probes_are_those_of_the_schedule_within():
    assert prepared({"b": 2}, Hybrid("affinity", probes=3)).probes == 3
    assert prepared({"b": 2}, Joint()).probes == 0


def test_rows_are_drawn_as_the_schedule_within_draws_them():
    assert prepared({"b": 2}, Joint(draw="tasks")).separately
    assert not prepared({"b": 2}, Alternating()).separately


def waiting(after, metric="accuracy"):
    return {"after": after, "metric": metric, "reaches": 0.8}


@pytest.mark.parametrize(
    ("start", "parameters", "message"),
    [
        ({"bb": 2}, {}, "start names no task 'bb'. Did you mean 'b'"),
        ({"b": 0}, {}, "start has epoch 0 for 'b', but epochs are counted from 1"),
        ({"b": 6}, {}, "start never lets 'b' start: it can begin with epoch 6 at the earliest, but there are 5"),
        ({"b": 5, "c": waiting("b")}, {}, "start never lets 'c' start: it can begin with epoch 6"),
        ({"b": waiting("c"), "c": waiting("b")}, {}, "wait for each other, so that none ever starts: b -> c -> b"),
        ({"b": waiting("b")}, {}, "none ever starts: b -> b"),
        ({"b": waiting("d")}, {}, "start names no task 'd'"),
        ({"a": 2, "b": 2, "c": 3}, {}, "start leaves no task for epoch 1"),
        ({"b": 2}, {"freeze": {"layer1": (3, 2)}}, "freeze has .3, 2. for 'layer1'"),
        ({"b": 2}, {"freeze": {"layer1": (0, None)}}, "freeze has .0, null. for 'layer1'"),
        ({"b": 2}, {"freeze": {"layer1": (6, None)}}, "frozen from epoch 6 on, but there are 5 epochs"),
        ({"b": 2}, {"within": Hybrid([["a", "b"]])}, "groups lacks the task 'c'"),
        ({"b": 2}, {"within": "jiont"}, "no schedule 'jiont'. Did you mean 'joint'"),
    ],
)
def test_what_cannot_be_is_refused(start, parameters, message):
    with pytest.raises(UserError, match=message):
        prepared(start, **parameters)


def test_a_metric_must_be_one_of_the_task_that_is_waited_for():
    schedule = Curriculum({"b": waiting("a", "accuracy")})
    schedule.check({"a": ("accuracy", "loss"), "b": ("mae",)}, 3)
    schedule.check({"a": None, "b": None}, 3)
    with pytest.raises(UserError, match="metric 'accuracy' of 'a', which has no such metric.*'gain', 'mae'"):
        schedule.check({"a": ("mae",), "b": ("accuracy",)}, 3)
