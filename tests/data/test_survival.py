import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data import survival
from polytask.data.survival import SurvivalTarget
from polytask.data.table import Table
from polytask.data.targets import make_target, target_from_state
from polytask.errors import UserError
from polytask.labels import TargetSpec
from polytask.tasks import Survival


def _table(time, event):
    return Table.from_arrow(pa.table({"months": time, "died": event}), source="patients.csv")


def _fitted(table, intervals=4, rows=None):
    target = make_target("life", TargetSpec("survival", ("months", "died"), intervals=intervals))
    target.fit(table, np.arange(len(table)) if rows is None else np.array(rows))
    return target


def _encode(target, table):
    return target.encode(table.take(None), np.arange(len(table)), table)


@pytest.mark.parametrize("event", [[True, False, None, True], [1, 0, None, 1], ["yes", "No", None, "t"]])
def test_a_time_without_an_event_is_below_zero_and_both_have_to_be_known(event):
    table = _table([3.0, 5.0, 2.0, None], event)
    values, mask = _encode(_fitted(table), table)
    assert values.tolist() == [3, -5, 0, 0]
    assert mask.tolist() == [True, True, False, False]
    assert (values.dtype, mask.dtype) == (torch.float32, torch.bool)


def test_at_time_zero_an_event_and_none_differ():
    table = _table([0, 0, 1], [True, False, True])
    values, _ = _encode(_fitted(table), table)
    assert values[0] == 0
    assert values[1] < 0
    assert values[1] == pytest.approx(0)


def test_intervals_have_as_many_events_each_and_end_at_the_last_one():
    table = _table([*np.arange(1.0, 9.0), 20.0, 30.0], [True] * 8 + [False] * 2)
    summary = _fitted(table).summary
    assert list(summary.edges) == [2, 4, 6, 8]
    assert list(summary.counts) == [2, 2, 2, 2]
    assert list(summary.known) == [10, 8, 6, 4]
    assert summary.labelled == 10


def test_ties_make_fewer_intervals():
    summary = _fitted(_table([1.0, 1, 1, 1, 1, 5], [True] * 6), intervals=3).summary
    assert list(summary.edges) == [1, 5]
    assert list(summary.counts) == [5, 1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=30).filter(
        lambda rows: any(time and event for time, event in rows)
    ),
    st.integers(1, 6),
)
def test_its_baseline_is_the_best_constant_of_the_task(rows, intervals):
    table = _table(*map(list, zip(*rows, strict=True)))
    target = _fitted(table, intervals)
    task = Survival(**Survival.complete({"time": "months", "event": "died"}, target.summary))
    values, mask = _encode(target, table)
    output = task.baseline(len(rows)).clone().requires_grad_()
    task.loss(output, values, mask).backward()
    summary = target.summary
    interior = [0 < n < k for n, k in zip(summary.counts, summary.known, strict=True)]
    gradient = output.grad.sum(dim=0)[torch.tensor(interior)]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-5, rtol=0)


def test_only_the_training_part_makes_the_intervals_and_they_survive_a_reload():
    table = _table([1.0, 2.0, 50.0], [True, True, True])
    target = _fitted(table, rows=[0, 1])
    assert list(target.summary.edges) == [1, 2]
    again = target_from_state("life", json.loads(json.dumps(target.state_dict())))
    assert isinstance(again, SurvivalTarget)
    assert again.summary == target.summary
    assert again.spec == target.spec
    assert torch.equal(_encode(again, table)[0], _encode(target, table)[0])


def test_of_many_rows_a_sample_makes_the_intervals(monkeypatch):
    monkeypatch.setattr(survival, "_EDGE_ROWS", 400)
    draw = np.random.default_rng(0)
    time = draw.exponential(10, 4000)
    summary = _fitted(_table(time, [True] * 4000), intervals=4).summary
    assert summary.edges[1] == pytest.approx(10 * np.log(2), rel=0.15)
    assert summary.labelled == 4000
    assert summary.known[0] == 4000


def test_what_is_counted_is_shown():
    table = _table([2.0, 4.0, None], [True, False, True])
    target = _fitted(table)
    tally = target.tally()
    tally.add(target.read(table.take(None), np.arange(3), table))
    assert str(tally) == "event in 50 %, mean time 3"


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [
        ([1.0, -2.0], [True, True], "patients.csv, row 2, column 'months': the time is -2"),
        ([1.0, 1e39], [True, True], "the time is 1e"),
        ([1.0, 2.0], ["yes", "maybe"], "patients.csv, row 2, column 'died'.*'maybe' is not true or false"),
        ([1.0, 2.0], [False, False], r"no training row of patients.csv has an event \('died'\)"),
        ([0.0, 2.0], [True, False], "above 0, so there is nothing to learn"),
        ([None, 2.0], [True, None], "none of the 2 training rows"),
    ],
)
def test_what_cannot_be_learned_is_said(time, event, message):
    with pytest.raises(UserError, match=message):
        _fitted(_table(pa.array(time, pa.float64()), event))


def test_a_numpy_reference_of_the_counts():
    draw = np.random.default_rng(1)
    frame = pd.DataFrame({"months": draw.exponential(5, 200), "died": draw.random(200) < 0.7}).astype({"months": "f4"})
    summary = _fitted(Table.of(frame, "t"), intervals=5).summary
    start = 0.0
    for end, events, known in zip(summary.edges, summary.counts, summary.known, strict=True):
        within = frame.died & (frame.months > start) & (frame.months <= end)
        passed = (frame.died & (frame.months > end)) | (~frame.died & (frame.months >= np.float32((start + end) / 2)))
        assert (events, known) == (within.sum(), within.sum() + passed.sum())
        start = end
