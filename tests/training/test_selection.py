import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.tasks import Classification, Regression
from polytask.training.selection import MEAN_GAIN, Best, criterion_value, gain, mean_gain, stage_of

CLASS = Classification("kind", classes=3)
VALUE = Regression("age", metric="mae")


def test_gain_is_the_share_of_the_baselines_error_that_is_gone():
    assert gain(CLASS, {"kind": {"accuracy": 0.9}}, {"kind": {"accuracy": 0.6}}) == pytest.approx(0.75)
    assert gain(VALUE, {"age": {"mae": 1.0}}, {"age": {"mae": 4.0}}) == pytest.approx(0.75)


def test_gain_is_zero_at_the_baseline_one_when_perfect_and_negative_when_worse():
    baseline = {"age": {"mae": 4.0}}
    assert gain(VALUE, baseline, baseline) == 0
    assert gain(VALUE, {"age": {"mae": 0.0}}, baseline) == 1
    assert gain(VALUE, {"age": {"mae": 8.0}}, baseline) == -1


@given(st.floats(1e-6, 1e6), st.floats(0, 1e3), st.floats(1e-3, 1e3))
def test_gain_does_not_depend_on_units(unit: float, value: float, base: float):
    plain = gain(VALUE, {"age": {"mae": value}}, {"age": {"mae": base}})
    scaled = gain(VALUE, {"age": {"mae": value * unit}}, {"age": {"mae": base * unit}})
    assert plain == pytest.approx(scaled, rel=1e-6, abs=1e-6)


def test_gain_is_undefined_where_the_baseline_is_perfect_or_a_value_is_missing():
    assert math.isnan(gain(CLASS, {"kind": {"accuracy": 1.0}}, {"kind": {"accuracy": 1.0}}))
    assert math.isnan(gain(CLASS, {}, {"kind": {"accuracy": 0.5}}))


def test_mean_gain_leaves_out_undefined_tasks():
    tasks = {"kind": CLASS, "age": VALUE}
    scores = {"kind": {"accuracy": 1.0}, "age": {"mae": 1.0}}
    baseline = {"kind": {"accuracy": 1.0}, "age": {"mae": 2.0}}
    assert mean_gain(tasks, scores, baseline) == pytest.approx(0.5)
    assert math.isnan(mean_gain({"kind": CLASS}, scores, baseline))


def test_criterion_can_be_one_metric():
    scores = {"age": {"rmse": 3.0}}
    assert criterion_value("age/valid/rmse", {"age": VALUE}, scores, {}) == 3.0
    assert math.isnan(criterion_value("age/valid/mae", {"age": VALUE}, scores, {}))


def test_best_follows_the_direction_of_the_metric():
    errors = Best("age/valid/mae")
    assert [errors.update(value, epoch) for epoch, value in enumerate([3.0, 2.0, 2.5, 1.0])] == [
        True,
        True,
        False,
        True,
    ]
    scores = Best("kind/valid/accuracy")
    assert [scores.update(value, epoch) for epoch, value in enumerate([0.3, 0.2, 0.5])] == [True, False, True]
    assert (errors.epoch, scores.epoch) == (3, 2)


def test_a_nan_is_never_the_best():
    best = Best()
    assert [best.update(value, epoch) for epoch, value in enumerate([math.nan, 0.1, math.nan])] == [False, True, False]


def test_patience_counts_evaluations_without_enough_progress():
    best = Best(patience=2, min_delta=0.1)
    exhausted = []
    for epoch, value in enumerate([0.5, 0.55, 0.58, 0.59]):
        best.update(value, epoch)
        exhausted.append(best.exhausted)
    assert exhausted == [False, False, True, True]
    assert best.epoch == 3, "small progress counts for the best epoch, though not for patience"


def test_state_round_trip_goes_on_alike():
    one, two = Best(patience=3), Best(patience=3)
    for epoch, value in enumerate([0.1, 0.3, 0.2]):
        one.update(value, epoch, stage=epoch // 2)
    two.load_state_dict(one.state_dict())
    assert one == two


def test_a_new_stage_chooses_anew():
    best = Best(patience=2)
    values = [(0.9, 1), (0.95, 1), (0.2, 2), (0.1, 2), (0.3, 2), (math.nan, 3)]
    improved = [best.update(value, epoch, stage=stage) for epoch, (value, stage) in enumerate(values)]
    assert improved == [True, True, True, False, True, False]
    assert math.isnan(best.value) and best.epoch == -1, "in the last stage there is nothing to choose by yet"


def test_patience_waits_while_it_is_held_and_begins_with_a_new_stage():
    best = Best(patience=2)
    for epoch in range(5):
        best.update(0.5, epoch, stage=1, hold=True)
        assert not best.exhausted
    exhausted = []
    for epoch, stage in enumerate([1, 2, 2, 2], start=5):
        best.update(0.5, epoch, stage=stage)
        exhausted.append(best.exhausted)
    assert exhausted == [False, False, False, True]


def test_the_stage_is_how_many_of_the_tasks_that_count_have_started():
    tasks = {"a": Regression("a"), "b": Regression("b"), "c": Regression("c", auxiliary=True)}
    assert [stage_of(MEAN_GAIN, tasks, started) for started in ([], ["c"], ["a", "c"], ["a", "b"])] == [0, 0, 1, 2]
    assert [stage_of("c/valid/mae", tasks, started) for started in (["a", "b"], ["c"])] == [0, 1]
