"""The example of a task of the user's own, through the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from polytask.tasks import family

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_task"


@pytest.fixture
def students(tmp_path: Path) -> pd.DataFrame:
    """Grades that scatter the more, the more a student is absent."""
    draw = np.random.default_rng(0)
    rows = 900
    absences = draw.uniform(0, 10, rows)
    grade = 10 + draw.normal(0, 1, rows) * (0.5 + absences)
    table = pd.DataFrame({"student": np.arange(rows), "absences": absences, "G1": 0.0, "G2": 0.0, "G3": grade})
    table["passed"] = np.where(grade >= 10, "yes", "no")
    table.to_csv(tmp_path / "students.csv", index=False)
    for name in ("intervals.py", "config.yaml"):
        shutil.copy(EXAMPLE / name, tmp_path / name)
    return table


def test_the_example_trains_is_scored_and_predicts_intervals_that_cover_what_they_should(
    students: pd.DataFrame, polytask, tmp_path: Path
):
    settings = ["training.optimizer.lr=1.0e-2", "training.selection=grade/valid/loss", "training.early_stopping=null"]
    code, _, err = polytask("train", "config.yaml", "-o", "run", *settings)
    assert code == 0, err
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    scores = json.loads(out)["tasks"]["grade"]
    assert scores["metric"] == "mae"
    assert scores["scores"]["loss"] < 0.97 * scores["baseline"]["loss"]
    code, _, err = polytask("predict", "run", "students.csv", "-o", "out.csv")
    assert code == 0, err
    found = pd.read_csv(tmp_path / "out.csv")
    inside = (found["grade_low"] <= students["G3"]) & (students["G3"] <= found["grade_high"])
    assert 0.7 < inside.mean() < 0.9
    width = found["grade_high"] - found["grade_low"]
    assert np.corrcoef(width, students["absences"])[0, 1] > 0.9


def test_the_pinball_loss_is_least_at_the_quantile(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    task = family.create("intervals.Interval", target="y", coverage=0.9)
    values = torch.linspace(-3, 5, 401).unsqueeze(1)
    for number, share in enumerate([0.05, 0.5, 0.95]):
        best = torch.quantile(values, share)
        losses = [
            task.loss(torch.zeros(401, 3).index_fill(1, torch.tensor(number), float(best + off)), values, None)
            for off in (-0.2, 0.0, 0.2)
        ]
        assert losses[1] < min(losses[0], losses[2])
