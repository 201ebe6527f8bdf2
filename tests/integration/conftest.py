"""Running the command line as a user does."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a process of its own."""

    def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "polytask", *(str(word) for word in words)]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False, **options
        )

    return run


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A small table: one class to predict, one number, both with missing labels; numeric and categorical inputs."""
    draw = np.random.default_rng(0)
    rows = 400
    height, city = draw.normal(170, 10, rows), draw.choice(["Ulm", "Jena", "Bonn"], rows)
    weight = 0.9 * height - 90 + 5 * (city == "Ulm") + draw.normal(0, 3, rows)
    tall = np.where(height + draw.normal(0, 3, rows) > 170, "yes", "no").astype(object)
    tall[draw.random(rows) < 0.2] = None
    weight[draw.random(rows) < 0.3] = np.nan
    table = pd.DataFrame({"height": height.round(2), "city": city, "tall": tall, "weight": weight.round(2)})
    path = tmp_path / "people.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def config(people: Path) -> Path:
    """A configuration for `people` that trains in a second."""
    path = people.with_name("people.yaml")
    path.write_text(
        """\
data: {train: people.csv}
inputs:
  row: {type: tabular}
tasks:
  tall: {type: classification}
  weight: {type: regression}
model:
  encoders:
    row: {type: mlp, width: 16, depth: 2, dropout: 0.1}
training: {epochs: 3, batch_size: 32, tensorboard: false}
"""
    )
    return path
