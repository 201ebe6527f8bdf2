"""The best epoch, and the end, where tasks start one after the other."""

import math

import numpy as np
import pandas as pd
import pytest

from polytask.config import Config
from polytask.optimization.running import RunningSchedule
from polytask.training.module import MultiTaskModule
from polytask.training.train import resume, train

ROWS = 90
NEVER = {"after": "size", "metric": "mae", "reaches": -1.0}


@pytest.fixture
def run(tmp_path):
    """Train tasks that start one after the other; the tables say nothing of them, so that scores are chance."""
    draw = np.random.default_rng(0)
    table = pd.DataFrame(draw.normal(size=(ROWS, 5)), columns=["u", "v", "size", "late", "more"])
    table.to_csv(tmp_path / "t.csv", index=False)

    def run(start, name="run", tasks=None, schedule=None, **training):
        config = {
            "data": {"train": str(tmp_path / "t.csv"), "split": {"valid": 0.3, "test": 0}},
            "inputs": {"row": {"type": "tabular", "columns": ["u", "v"]}},
            "tasks": {"size": "regression", "late": "regression", "more": "regression", **(tasks or {})},
            "schedule": schedule or {"type": "curriculum", "start": start},
            "training": {"epochs": 6, "batch_size": 16, "tensorboard": False, **training},
        }
        return train(Config.from_mapping(config), tmp_path / name)

    return run


def gains_of(folder):
    """The gain of each task after each epoch."""
    history, tasks = pd.read_csv(folder.metrics), folder.read_summary()["tasks"]
    return pd.DataFrame(
        {name: 1 - history[f"{name}/valid/mae"] / each["baseline"]["mae"] for name, each in tasks.items()}
    )


STOPPING = {"patience": 1, "min_delta": 10.0}


def test_the_best_epoch_has_all_main_tasks_and_the_end_waits_for_them(run):
    folder = run({"late": 3, "more": 5}, early_stopping=STOPPING)
    summary, history = folder.read_summary(), pd.read_csv(folder.metrics)
    assert summary["epochs"] == 6, "one epoch without progress after the fifth"
    assert summary["best_epoch"] == 5 + history["valid/mean_gain"][4:].argmax()
    assert summary["best_value"] == pytest.approx(history["valid/mean_gain"][4:].max())
    assert run({"late": 2, "more": 3}, "sooner", early_stopping=STOPPING).read_summary()["epochs"] == 4


def test_the_mean_gain_is_over_the_tasks_that_have_started(run):
    folder = run({"late": 3, "more": 4})
    history = pd.read_csv(folder.metrics)
    assert history["late/train/loss"].isna().tolist() == [True, True, False, False, False, False]
    gains = gains_of(folder)
    assert history["valid/mean_gain"][1] == pytest.approx(gains["size"][1])
    assert history["valid/mean_gain"][2] == pytest.approx((gains["size"][2] + gains["late"][2]) / 2)
    assert history["valid/mean_gain"][3] == pytest.approx(gains.mean(axis=1)[3])


def test_a_task_that_never_starts_does_not_keep_an_epoch_from_being_the_best(run):
    folder = run({"late": 2, "more": NEVER}, early_stopping=STOPPING)
    summary = folder.read_summary()
    assert summary["epochs"] == 6, "it could still start in the last epoch"
    assert summary["best_epoch"] >= 2
    assert summary["tasks"]["more"]["best_epoch"] is None


def test_auxiliary_tasks_are_not_waited_for(run):
    late = {"type": "regression", "auxiliary": True}
    folder = run({"late": 5}, tasks={"late": late}, early_stopping=STOPPING)
    assert folder.read_summary()["epochs"] == 2


def test_what_one_task_is_judged_by_begins_with_its_start(run):
    folder = run({"late": 4}, selection="late/valid/mae")
    values = pd.read_csv(folder.metrics)["late/valid/mae"]
    summary = folder.read_summary()
    assert summary["best_epoch"] == summary["tasks"]["late"]["best_epoch"] == 4 + values[3:].argmin()
    # The task that is watched is there from the first epoch; the end waits for the others all the same.
    stopping = {**STOPPING, "metric": "size/valid/mae"}
    assert run({"late": 4}, "watched", early_stopping=stopping).read_summary()["epochs"] == 4


def test_a_second_phase_chooses_anew(run):
    schedule = {"type": "pretrain_finetune", "pretrain": ["late", "more"], "epochs": 3}
    folder = run({}, schedule=schedule)
    values, gains = pd.read_csv(folder.metrics)["valid/mean_gain"], gains_of(folder)
    np.testing.assert_allclose(values[:3], gains[["late", "more"]].mean(axis=1)[:3])
    np.testing.assert_allclose(values[3:], gains.mean(axis=1)[3:])
    assert folder.read_summary()["best_epoch"] == 4 + values[3:].to_numpy().argmax()


def test_the_learning_rate_waits_anew_for_progress_when_a_task_starts(run, monkeypatch):
    restarts = []
    monkeypatch.setattr(RunningSchedule, "restart", lambda self: restarts.append(self.lr))
    history = pd.read_csv(run({"late": 3, "more": 5}).metrics)
    assert restarts == [history["lr"][2], history["lr"][4]]


def test_a_resumed_run_chooses_as_the_whole_one(run, monkeypatch, tmp_path):
    training = {"early_stopping": {"patience": 2, "min_delta": 10.0}, "checkpoint_every": 2}
    whole = run({"late": 3}, "whole", **training)
    original = MultiTaskModule.training_step

    def stopping(self, step, number):
        if self.steps == math.ceil(whole.read_summary()["steps"] * 0.7):
            raise InterruptedError
        original(self, step, number)

    monkeypatch.setattr(MultiTaskModule, "training_step", stopping)
    with pytest.raises(InterruptedError):
        run({"late": 3}, "part", **training)
    monkeypatch.undo()
    part = resume(tmp_path / "part")
    assert part.metrics.read_text() == whole.metrics.read_text()
    one, other = whole.read_summary(), part.read_summary()
    assert (one["epochs"], one["best_epoch"]) == (other["epochs"], other["best_epoch"]) == (5, one["best_epoch"])
