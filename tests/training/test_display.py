"""What the user sees, on a terminal and elsewhere."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from polytask.config import Config
from polytask.training.display import Display, number
from polytask.training.job import make_job
from polytask.training.train import train


@pytest.fixture
def config(tmp_path: Path) -> Config:
    draw = np.random.default_rng(0)
    a = draw.normal(size=200)
    table = pd.DataFrame({"a": a, "up": np.where(a > 0, "yes", "no"), "twice": 2 * a})
    table.to_csv(tmp_path / "t.csv", index=False)
    return Config.from_mapping(
        {
            "data": {"train": str(tmp_path / "t.csv")},
            "inputs": {"row": {"type": "tabular"}},
            "tasks": {"up": {"type": "classification"}, "twice": {"type": "regression"}},
            "training": {"epochs": 2, "batch_size": 32, "tensorboard": False},
        }
    )


def shown(config: Config, folder: Path, *, terminal: bool, quiet: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=140, color_system=None)
    train(config, folder, display=Display(console, quiet=quiet))
    return text.getvalue()


def test_elsewhere_each_epoch_is_one_line(config: Config, tmp_path: Path):
    text = shown(config, tmp_path / "run", terminal=False)
    assert "Targets" in text and "labelled" in text
    assert "t.csv: 200 rows" in text and "number" in text
    lines = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2  up: loss ")
    assert "twice: loss" in lines[1] and "mae" in lines[1] and "mean gain" in lines[1]


def test_quiet_shows_the_lines_only(config: Config, tmp_path: Path):
    text = shown(config, tmp_path / "run", terminal=True, quiet=True)
    assert [line[:9] for line in text.splitlines()] == ["epoch 1/2", "epoch 2/2"]


def test_a_terminal_has_one_bar_and_one_table_with_a_row_a_task(config: Config, tmp_path: Path):
    text = shown(config, tmp_path / "run", terminal=True)
    last = text[text.rindex("epoch 2/2") :]
    assert "10/10" in last
    assert "up" in last and "twice" in last and "accuracy" in last and "mae" in last
    assert "best epoch so far" in last and "mean gain" in last


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (float("nan"), "-"), (0.123456, "0.1235"), (1e6, "1e+06")])
def test_numbers_have_four_digits(value, text):
    assert number(value) == text


def test_a_run_that_goes_on_within_an_epoch_shows_how_far_it_is(config: Config, tmp_path: Path):
    values = config.to_mapping()
    values["training"] |= {"checkpoint_every": 3, "log_every": 1}
    module = make_job(Config.from_mapping(values)).module
    text = io.StringIO()
    display = Display(Console(file=text, force_terminal=True, width=140, color_system=None))
    assert module.plan is not None
    module.plan.done = module.steps = 3
    module.step_log.add(("up",), torch.tensor([0.625]), None, [8])
    module.step_log.flush()
    display.start(module, epochs=2)
    display.stop()
    assert "3/10" in text.getvalue()
    assert "0.625" in text.getvalue()
