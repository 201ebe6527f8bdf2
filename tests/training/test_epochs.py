"""What the epochs of a training mean for it."""

import math

import pytest

from polytask.tasks import Regression
from polytask.training.epoch_results import EpochResults
from polytask.training.epochs import Epochs
from polytask.training.learned_numbers import LearnedNumber
from polytask.training.selection import Best

TASKS = {"a": Regression("a"), "b": Regression("b", auxiliary=True), "c": Regression("c")}
BASELINE = {task: {"mae": 2.0} for task in TASKS}


def results(started=("a", "c"), losses=None, **errors):
    scores = {task: {"mae": error} for task, error in errors.items()}
    return EpochResults(TASKS, started, losses or {}, scores, BASELINE)


def add(epochs, found, *, hold=False):
    epoch = len(epochs.history)
    return epochs.add(epoch, {"epoch": epoch + 1.0}, found, [LearnedNumber(epoch + 1, "t", "r", "c", 0.5)], hold=hold)


def test_the_best_epoch_is_chosen_and_patience_runs_out():
    epochs = Epochs(Best(), Best("a/valid/mae", patience=2))
    choices = [add(epochs, results(a=a, c=1.0)) for a in (1.0, 0.5, 0.7, 0.6)]
    assert [choice.improved for choice in choices] == [True, True, False, False]
    assert [choice.stop for choice in choices] == [False, False, False, True]
    assert [choice.value for choice in choices] == pytest.approx([0.5, 0.625, 0.575, 0.6])
    assert epochs.best_record == {"epoch": 2.0} and epochs.last_record == {"epoch": 4.0}


def test_patience_can_be_held():
    epochs = Epochs(Best(), Best("a/valid/mae", patience=1))
    assert not any(add(epochs, results(a=1.0, c=1.0), hold=True).stop for _ in range(3))
    assert add(epochs, results(a=1.0, c=1.0)).stop


def test_with_another_task_the_choice_begins_anew():
    epochs = Epochs(Best(), None)
    choices = [add(epochs, results(started, a=0.5, c=1.9)) for started in (["a"], ["a"], ["a", "c"], ["a", "c"])]
    assert [choice.anew for choice in choices] == [False, False, True, False]
    assert epochs.best.epoch == 2


def test_without_scores_the_last_epoch_stands_and_nothing_stops():
    epochs = Epochs(Best(), Best(patience=1))
    choices = [add(epochs, results()) for _ in range(3)]
    assert all(choice.improved and math.isnan(choice.value) and not choice.stop for choice in choices)
    assert epochs.best.epoch == 2


def test_it_goes_on_from_its_state():
    def after(epochs, errors):
        return [add(epochs, results(a=a, c=1.0)) for a in errors]

    whole, part = Epochs(Best(), Best(patience=2)), Epochs(Best(), Best(patience=2))
    after(part, [1.0, 0.5])
    again = Epochs(Best(), Best(patience=2))
    again.load_state_dict(part.state_dict())
    assert after(whole, [1.0, 0.5, 0.7, 0.8])[2:] == after(again, [0.7, 0.8])
    assert (again.history, again.learned, again.best) == (whole.history, whole.learned, whole.best)


def test_before_the_first_epoch_there_is_no_record():
    epochs = Epochs(Best(), None)
    assert epochs.best_record == epochs.last_record == {}


def test_what_balancers_and_schedules_are_told():
    found = results(losses={"a": 0.25}, a=1.0, b=0.5)
    told = found.for_balancer()
    assert {task: (score.value, score.higher_is_better, score.gain) for task, score in told.items()} == {
        "a": (1.0, False, 0.5),
        "b": (0.5, False, 0.75),
    }
    report = found.for_schedule(None)
    assert report.losses == {"a": 0.25} and report.higher_is_better == {"mae": False}
    assert report.gains == pytest.approx({"a": 0.5, "b": 0.75, "c": math.nan}, nan_ok=True)
    assert found.record() == {"a/valid/mae": 1.0, "b/valid/mae": 0.5, "valid/mean_gain": 0.5}


def test_without_validation_nobody_is_told_scores():
    found = results(losses={"a": 0.25})
    assert found.for_balancer() is None and found.record() == {} and found.for_schedule(None).gains == {}
