"""What a training has spent on each task."""

import logging

import numpy as np
import pandas as pd
import pytest

from polytask.config import Config
from polytask.training import task_account
from polytask.training.task_account import Spent, TaskAccount, log_account
from polytask.training.train import resume, train

ROWS = 120


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when it is told to."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(task_account.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_the_time_of_a_step_is_divided_by_labelled_rows(clock):
    account = TaskAccount(["a", "b", "c"])
    clock.now = 5.0
    account.start_epoch()
    for seconds, rows in ((2.0, {"a": 30, "b": 10}), (3.0, {}), (4.0, {"b": 8})):
        clock.now += seconds
        account.step_done(rows)
    assert account.totals() == {"a": Spent(1, 30, 1.5), "b": Spent(2, 18, 4.5), "c": Spent()}
    assert account.started == ["a", "b"]


def test_what_is_done_between_steps_is_not_theirs(clock):
    account = TaskAccount(["a"])
    clock.now += 1.0
    account.step_done({"a": 1})
    clock.now += 100.0
    account.start_clock()
    clock.now += 1.0
    account.step_done({"a": 1})
    assert account.totals() == {"a": Spent(2, 2, 2.0)}


def test_an_epoch_is_counted_by_itself_and_the_run_goes_on(clock):
    account = TaskAccount(["a", "b"])
    for epoch in range(3):
        account.start_epoch()
        for _ in range(epoch + 1):
            clock.now += 0.5
            account.step_done({"a": 4})
    assert account.epoch() == {"a/train/steps": 3, "a/train/samples": 12, "b/train/steps": 0, "b/train/samples": 0}
    assert account.totals()["a"] == Spent(6, 24, 3.0)


def test_it_goes_on_from_its_state(clock):
    one, other = TaskAccount(["a"]), TaskAccount(["a"])
    for account in (one, other):
        account.start_epoch()
    clock.now += 1.0
    one.step_done({"a": 3})
    clock.now += 50.0
    other.load_state_dict(one.state_dict())
    clock.now += 1.0
    other.step_done({"a": 4})
    assert other.epoch() == {"a/train/steps": 2, "a/train/samples": 7}
    assert other.totals() == {"a": Spent(2, 7, 2.0)}


def test_the_log_has_one_line_where_tasks_are_alike_and_else_a_table(caplog):
    with caplog.at_level(logging.INFO, logger="polytask"):
        log_account({"a": Spent(3, 24, 0.26), "b": Spent(3, 24, 0.3)})
        log_account({"first": Spent(3, 2400, 0.26), "b": Spent(1200, 24, 17.0)})
    one, table = (record.getMessage() for record in caplog.records)
    assert one == "Each of the 2 tasks: 3 steps, 24 samples, 0.3 s"
    assert table.splitlines()[1:] == [
        "task   steps  samples  seconds",
        "first      3    2,400      0.3",
        "b      1,200       24     17.0",
    ]


@pytest.fixture
def config(tmp_path):
    draw = np.random.default_rng(0)
    table = pd.DataFrame(draw.normal(size=(ROWS, 4)), columns=["u", "v", "many", "few"])
    table.loc[table.index % 4 > 0, "few"] = np.nan
    table.to_csv(tmp_path / "t.csv", index=False)

    def config(**changes):
        values = {
            "data": {"train": str(tmp_path / "t.csv"), "split": {"valid": 0.2, "test": 0}},
            "inputs": {"row": {"type": "tabular", "columns": ["u", "v"]}},
            "tasks": {"many": "regression", "few": "regression"},
            **changes,
        }
        values["training"] = {"epochs": 3, "batch_size": 8, "tensorboard": False, **values.get("training", {})}
        return Config.from_mapping(values)

    return config


@pytest.mark.parametrize(
    ("schedule", "accumulate"),
    [("joint", 1), ("joint", 3), ("alternating", 1), ({"type": "joint", "draw": "tasks"}, 2), ("meta", 1)],
)
def test_summary_log_and_metrics_of_a_run(config, tmp_path, schedule, accumulate):
    folder = train(config(schedule=schedule, training={"accumulate": accumulate}), tmp_path / "run")
    summary, history = folder.read_summary(), pd.read_csv(folder.metrics)
    for task, each in summary["tasks"].items():
        assert each["steps"] == history[f"{task}/train/steps"].sum()
        assert each["samples"] == history[f"{task}/train/samples"].sum()
    many, few = (summary["tasks"][task] for task in ("many", "few"))
    assert 0 < many["seconds"] + few["seconds"] <= summary["seconds"] + 0.1
    if schedule == "joint":
        # Each epoch passes once through the rows.
        assert many["samples"] == 3 * summary["rows"]["train"] == 3 * 96
        assert few["samples"] == 3 * summary["labels"]["few"]["labelled"]
        assert few["steps"] <= many["steps"] == summary["steps"] == 3 * 12 // accumulate
    else:
        assert many["steps"] + few["steps"] == summary["steps"] * (2 if isinstance(schedule, dict) else 1)
    log = folder.log.read_text()
    differ = (many["steps"], many["samples"]) != (few["steps"], few["samples"])
    assert ("What was spent on each task" if differ else "Each of the 2 tasks: ") in log
    assert f"{many['samples']:,}" in log


@pytest.mark.parametrize("stop", [17])
def test_a_resumed_run_has_the_account_of_the_whole_one(config, tmp_path, train_until, stop):
    settings = config(schedule="alternating", training={"checkpoint_every": 4})
    whole = train(settings, tmp_path / "whole")
    train_until(settings, tmp_path / "part", stop)
    part = resume(tmp_path / "part")
    assert part.metrics.read_text() == whole.metrics.read_text()
    for one, other in zip(*(folder.read_summary()["tasks"].values() for folder in (whole, part)), strict=True):
        assert (one["steps"], one["samples"]) == (other["steps"], other["samples"])
        assert other["seconds"] > 0


def test_the_mean_loss_of_an_epoch_weighs_rows_as_a_batch_does(config, tmp_path):
    table = pd.read_csv(tmp_path / "t.csv").assign(w=np.arange(ROWS) % 5 / 2)
    table.to_csv(tmp_path / "t.csv", index=False)
    many = {"type": "regression", "sample_weight": "w"}
    frozen = {"optimizer": {"type": "sgd", "lr": 1e-12}, "epochs": 1}
    losses = [
        pd.read_csv(
            train(
                config(tasks={"many": many, "few": "regression"}, training={**frozen, **sizes}), tmp_path / name
            ).metrics
        )["many/train/loss"][0]
        for name, sizes in (
            ("small", {"batch_size": 5}),
            ("whole", {"batch_size": 200}),
            ("steps", {"batch_size": 5, "accumulate": 3}),
        )
    ]
    # With weights that do not change it is the mean over all rows, however these are cut into batches.
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
