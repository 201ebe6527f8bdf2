"""Time series with counts, orders and times to predict, through the command line."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.integration

TASKS = {
    "bumps": {"type": "count"},
    "level": {"type": "ordinal", "classes": ["low", "middle", "high"]},
    "life": {"type": "survival", "time": "months", "event": "died", "intervals": 6},
}


@pytest.fixture
def table(tmp_path):
    """Series of 12 to 30 steps with bumps, whose level says how long they live; some labels are missing."""
    draw = np.random.default_rng(0)
    series, bumps, levels = [], [], []
    for _ in range(500):
        length = draw.integers(12, 31)
        level, values = draw.normal(), 0.2 * draw.normal(size=length)
        count = min(draw.poisson(2.0), 5)
        values[draw.choice(length, count, replace=False)] += 4
        series.append((values + level).round(3))
        bumps.append(count)
        levels.append(level)
    months = draw.exponential(10 * np.exp(np.array(levels)))
    seen = draw.exponential(20, 500)
    rows = pd.DataFrame(
        {
            "signal": [" ".join(map(str, values)) for values in series],
            "bumps": pd.array(bumps, dtype="Int64"),
            "level": np.array(["low", "middle", "high"])[np.digitize(levels, [-0.5, 0.5])],
            "months": np.minimum(months, seen).round(2),
            "died": np.where(months <= seen, "yes", "no"),
        }
    )
    for column in ("bumps", "level", "died"):
        rows.loc[draw.random(500) < 0.2, column] = None
    path = tmp_path / "series.csv"
    rows.to_csv(path, index=False)
    return path


def config(path, encoder, **more):
    path.write_text(
        yaml.safe_dump(
            {
                "name": "run",
                "data": {"train": "series.csv"},
                "inputs": {"series": {"type": "sequence", "columns": "signal", "jitter": 0.05}},
                "tasks": TASKS,
                "model": {"encoders": {"series": encoder}},
                "training": {
                    "epochs": 10,
                    "batch_size": 32,
                    "optimizer": {"type": "adamw", "lr": 0.01},
                    "sampler": {"type": "by_length"},
                    "tensorboard": False,
                },
                **more,
            }
        )
    )
    return path


def test_counts_orders_and_times_are_learned_from_series(polytask, tmp_path, table):
    path = config(tmp_path / "c.yaml", {"type": "tcn", "dim": 16, "depth": 2, "kernel": 3})
    code, _, err = polytask("train", path, "--quiet")
    assert code == 0, err
    code, out, err = polytask("evaluate", tmp_path / "runs" / "run", "--part", "valid", "--json")
    assert code == 0, err
    tasks = json.loads(out)["tasks"]
    assert tasks["bumps"]["scores"]["d2"] > 0.5
    assert tasks["level"]["scores"]["quadratic_kappa"] > 0.6
    assert tasks["life"]["scores"]["concordance"] > 0.65
    assert tasks["life"]["scores"]["integrated_brier"] < tasks["life"]["baseline"]["integrated_brier"]
    assert tasks["life"]["baseline"]["concordance"] == 0.5
    code, _, err = polytask("predict", tmp_path / "runs" / "run", table, "--output", tmp_path / "out.csv")
    assert code == 0, err
    predicted, given = pd.read_csv(tmp_path / "out.csv"), pd.read_csv(table)
    assert list(predicted) == [
        "row",
        "bumps",
        "level",
        "level_p_low",
        "level_p_middle",
        "level_p_high",
        "life",
        "life_risk",
    ]
    assert np.corrcoef(predicted.bumps, given.bumps.fillna(given.bumps.mean()))[0, 1] > 0.6
    assert (predicted.life > 0).all()
    assert predicted.life_risk.between(0, 1).all()


@pytest.mark.parametrize(
    "encoder",
    [
        {"type": "lstm", "hidden": 8, "bidirectional": True},
        {"type": "series_transformer", "dim": 16, "depth": 1, "patch": 4},
    ],
    ids=lambda encoder: encoder["type"],
)
def test_the_other_encoders_train_and_rows_without_labels_help(polytask, tmp_path, table, encoder):
    path = config(
        tmp_path / "c.yaml",
        encoder,
        balancing={"type": "uncertainty"},
        training={
            "epochs": 1,
            "batch_size": 64,
            "unlabelled_batch_size": 32,
            "tasks": {
                "level": {"unlabelled": {"type": "pseudo_labels", "threshold": 0.5}},
                "bumps": {"unlabelled": {"type": "consistency"}},
                "life": {"unlabelled": {"type": "consistency"}},
            },
            "tensorboard": False,
        },
    )
    code, _, err = polytask("train", path, "--quiet")
    assert code == 0, err
    summary = json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())
    assert set(summary["tasks"]) == set(TASKS)


def test_a_proposed_configuration_reads_the_series(polytask, tmp_path, table):
    code, _, err = polytask("init", table, "--targets", "bumps,level", "-o", tmp_path / "c.yaml")
    assert code == 0, err
    proposed = yaml.safe_load((tmp_path / "c.yaml").read_text())
    assert proposed["inputs"] == {"series": {"type": "sequence", "columns": "signal"}}
    code, _, err = polytask("train", tmp_path / "c.yaml", "training.epochs=1", "--quiet")
    assert code == 0, err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {"level": {"type": "ordinal"}}}, "'level': its classes are not numbers"),
        ({"tasks": {"months": {"type": "survival", "time": "months", "event": "months"}}}, "are the same column"),
        ({"tasks": {"life": {"type": "survival", "time": "months", "event": "level"}}}, "is not true or false"),
        ({"tasks": {"life": {"type": "survival", "time": "months"}}}, "event"),
        ({"tasks": {"x": {"type": "count", "target": "level"}}}, "is not a number"),
        ({"inputs": {"series": {"type": "sequence", "columns": "months"}}}, "one number a row, which is no series"),
        ({"inputs": {"series": {"type": "sequence", "columns": "level"}}}, "which is not a number"),
    ],
)
def test_what_is_wrong_is_said(polytask, tmp_path, table, change, message):
    tasks = {"bumps": {"type": "count"}}
    path = config(tmp_path / "c.yaml", {"type": "tcn"}, **{"tasks": tasks, **change})
    code, _, err = polytask("train", path, "--quiet")
    assert code == 2
    assert message in " ".join(err.split())
