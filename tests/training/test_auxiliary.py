"""Auxiliary tasks: who is told of them, and whether they helped."""

import json
import logging
import math

import numpy as np
import pandas as pd
import pytest
import torch

from polytask.config import Config
from polytask.config.without_auxiliary import without_auxiliary
from polytask.errors import UserError
from polytask.tasks import Classification, Regression
from polytask.training.auxiliary import make_balancer
from polytask.training.auxiliary_check import Comparison, check_auxiliary
from polytask.training.balanced_step import BalancedStep
from polytask.training.job import make_job
from polytask.training.selection import mean_gain
from polytask.training.train import resume, train

ROWS = 90


@pytest.fixture
def table(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, 3))
    found = pd.DataFrame(x, columns=["u", "v", "w"])
    found["kind"] = np.where(x[:, 0] > 0, "yes", "no")
    found["size"] = x[:, 1] + 0.1 * draw.normal(size=ROWS)
    found["extra"] = x[:, 0] * x[:, 1]
    path = tmp_path / "t.csv"
    found.to_csv(path, index=False)
    return path


def config(table, balancing="equal", **changes):
    values = {
        "data": {"train": str(table), "split": {"valid": 0.2}},
        "inputs": {"row": {"type": "tabular", "columns": "*"}},
        "tasks": {
            "kind": {"type": "classification"},
            "size": {"type": "regression"},
            "extra": {"type": "regression", "auxiliary": True},
        },
        "model": {"encoders": {"row": {"type": "mlp", "width": 8, "depth": 1}}},
        "balancing": balancing,
        **changes,
    }
    values["training"] = {"epochs": 2, "batch_size": 16, "tensorboard": False, **values.get("training", {})}
    return Config.from_mapping(values)


def test_the_mean_gain_leaves_auxiliary_tasks_out():
    tasks = {"a": Regression("a"), "b": Classification("b", classes=2, auxiliary=True)}
    scores = {"a": {"mae": 1.0}, "b": {"accuracy": 1.0}}
    assert mean_gain(tasks, scores, {"a": {"mae": 2.0}, "b": {"accuracy": 0.5}}) == 0.5


def test_a_configuration_of_auxiliary_tasks_alone_is_refused(table):
    with pytest.raises(UserError, match="all tasks are auxiliary"):
        config(table, tasks={"extra": {"type": "regression", "auxiliary": True}})


def test_the_baseline_of_an_auxiliary_task_is_a_main_task(table):
    assert not config(table).only_task("extra").tasks["extra"].parameters["auxiliary"]


@pytest.mark.parametrize("name", ["gradient_cosine", "ol_aux", "auto_lambda"])
def test_methods_with_main_tasks_take_those_that_are_not_auxiliary(table, name):
    assert make_balancer(config(table, name)).main.names == ("kind", "size")
    assert make_balancer(config(table, {"type": name, "main": "size"})).main.names == ("size",)


def test_it_has_to_be_known_which_tasks_are_the_main_ones(table):
    plain = {name: {"type": "regression"} for name in ("size", "extra")}
    with pytest.raises(UserError, match=r"balancing.*ol_aux.*main=.*auxiliary: true"):
        make_job(config(table, "ol_aux", tasks=plain))
    with pytest.raises(UserError, match="meta_balance.*goes by the gradient of one"):
        make_job(config(table, "meta_balance"))
    one = {"size": {"type": "regression"}, "extra": {"type": "regression", "auxiliary": True}}
    make_job(config(table, "meta_balance", tasks=one))


def test_a_criterion_of_an_auxiliary_task_is_followed_with_a_warning(table, caplog):
    with caplog.at_level(logging.WARNING, logger="polytask"):
        job = make_job(config(table, training={"selection": "extra/valid/mae"}))
    assert job.module.epochs.best.criterion == "extra/valid/mae"
    assert "'extra' is an auxiliary task" in caplog.text


@pytest.mark.parametrize("valid", [0.2, 0.0])
def test_auto_lambda_learns_from_rows_beside_those_of_the_step(table, tmp_path, valid):
    data = {"train": str(table), "split": {"valid": valid}}
    settings = config(table, {"type": "auto_lambda", "lr": 0.05}, data=data, training={"accumulate": 2})
    job = make_job(settings)
    rows = [job.module._held_out.batch(step) for step in range(6)]
    source = job.valid if valid else job.train.loader
    assert {int(row) for batch in rows for row in batch.rows} <= set(source.rows.tolist())
    assert set(rows[0].targets) == {"kind", "size"}
    again = make_job(settings).module._held_out
    assert all(torch.equal(again.batch(step).rows, batch.rows) for step, batch in enumerate(rows))
    history = pd.read_csv(train(settings, tmp_path / "run").metrics)
    assert all(abs(history[f"{task}/train/weight"].iloc[-1] - 0.1) > 0.01 for task in ("kind", "size"))


def test_auto_lambda_looks_at_no_task_that_has_left_the_losses(table, tmp_path, monkeypatch):
    leaves = {"early_stopping": {"patience": 1, "min_delta": 10.0}, "when_stopped": "leave_loss"}
    seen = []
    original = BalancedStep.look_ahead

    def watched(self, batches, held_out, *others):
        seen.append((set(batches[0].labelled), set(held_out.labelled)))
        original(self, batches, held_out, *others)

    monkeypatch.setattr(BalancedStep, "look_ahead", watched)
    train(config(table, "auto_lambda", training={"epochs": 3, "tasks": {"size": leaves}}), tmp_path / "run")
    everything, main = {"kind", "size", "extra"}, {"kind", "size"}
    assert seen[0] == (everything, main)
    assert seen[-1] == (everything - {"size"}, main - {"size"})


def test_methods_that_do_not_look_ahead_get_no_other_rows(table):
    assert make_job(config(table)).module._held_out is None


def test_summary_says_which_tasks_are_auxiliary(table, tmp_path):
    summary = train(config(table), tmp_path / "run").read_summary()
    assert {name: task["auxiliary"] for name, task in summary["tasks"].items()} == {
        "kind": False,
        "size": False,
        "extra": True,
    }


def test_the_same_without_auxiliary_tasks_has_the_same_rows_in_the_same_order(table):
    settings = config(table)
    job = make_job(settings)
    plain = without_auxiliary(settings, job.train.plan.steps)
    other = make_job(plain)
    assert set(other.model.task_names) == {"kind", "size"}
    assert other.preparation.inputs["row"].columns == job.preparation.inputs["row"].columns == ("u", "v", "w")
    steps = [[batch.rows.tolist() for batch in step.batches] for step in job.train]
    assert steps == [[batch.rows.tolist() for batch in step.batches] for step in other.train]


def test_what_cannot_do_without_an_auxiliary_task_is_said_before_the_training(polytask, table, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(config(table, training={"selection": "extra/valid/mae"}).to_yaml())
    code, _, err = polytask("train", path, "--check-auxiliary", "--output", tmp_path / "run")
    assert code == 2 and "Without 'extra' there is nothing to compare with" in err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_the_check_compares_and_writes_down(table, tmp_path):
    settings = config(table)
    folder = train(settings, tmp_path / "run")
    check = check_auxiliary(settings, folder, seeds=2)
    assert check.seeds == (0, 1) and check.same_rows and check.steps[0] == check.steps[1]
    written = json.loads(folder.auxiliary.read_text())
    assert list(written["tasks"]) == ["kind", "size"]
    size = written["tasks"]["size"]
    assert size["with"][0] == folder.read_summary()["tasks"]["size"]["valid"]["mae"]
    assert size["helped"] == [other - one for one, other in zip(size["with"], size["without"], strict=True)]
    assert written["auxiliary"] == ["extra"]
    before = sorted(path.stat().st_mtime_ns for path in (folder.root / "auxiliary").glob("*/summary.json"))
    assert check_auxiliary(settings, folder, seeds=2) == check
    assert before == sorted(path.stat().st_mtime_ns for path in (folder.root / "auxiliary").glob("*/summary.json"))


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ((0.8,), (0.7,), "one seed: may be chance"),
        ((0.8, 0.81, 0.79), (0.7, 0.71, 0.7), "helped"),
        ((0.7, 0.71, 0.7), (0.8, 0.81, 0.79), "hurt"),
        ((0.8, 0.6, 0.7), (0.7, 0.7, 0.69), "no difference beyond chance"),
        ((math.nan, 0.6), (0.7, 0.7), "not defined"),
    ],
)
def test_a_verdict_needs_more_than_chance(one, other, verdict):
    assert Comparison("a", "accuracy", one, other).verdict == verdict
    errors = Comparison("a", "mae", other, one)
    assert errors.verdict == verdict
    assert errors.helped == pytest.approx(Comparison("a", "accuracy", one, other).helped, nan_ok=True)


def test_command_line(polytask, table, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(config(table).to_yaml())
    code, out, err = polytask("train", path, "--check-auxiliary", "--output", tmp_path / "run", "--quiet")
    assert code == 0, err
    assert "With and without extra (1 seed)" in out and "One seed shows what happened once" in out.replace("\n", " ")
    assert "extra (auxiliary): loss" in out
    assert (tmp_path / "run" / "auxiliary.json").is_file()
    code, _, err = polytask("train", path, "--seeds", 2)
    assert code == 2 and "--check-auxiliary" in err


def test_resuming_with_a_look_ahead_is_exact(table, tmp_path, train_until):
    settings = config(table, {"type": "auto_lambda", "lr": 0.05}, training={"checkpoint_every": 2})
    whole = train(settings, tmp_path / "whole")
    train_until(settings, tmp_path / "part", 6)
    resumed = resume(tmp_path / "part")
    assert resumed.metrics.read_text() == whole.metrics.read_text()
