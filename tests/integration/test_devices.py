"""Training in two processes through the command line: the numbers of one process, and what happens when one ends."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.integration

ROWS = 150


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(ROWS, 3))
    table = pd.DataFrame(numbers, columns=["a", "b", "c"])
    table["price"] = np.where(draw.random(ROWS) < 0.7, 2 * numbers[:, 0] - numbers[:, 1], np.nan)
    table["sold"] = np.where(numbers[:, 2] > 0, "yes", "no")
    table.loc[draw.random(ROWS) < 0.4, "sold"] = None
    table.to_csv(tmp_path / "table.csv", index=False)
    config = {
        "data": {"train": "table.csv"},
        "inputs": {"row": {"type": "tabular"}},
        "tasks": {"price": {"type": "regression"}, "sold": {"type": "classification"}},
        "model": {"encoders": {"row": {"type": "mlp", "width": 8, "depth": 2, "dropout": 0.0}}},
        "training": {"epochs": 2, "batch_size": 32, "tensorboard": False, "accelerator": "cpu"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "polytask", "train", *arguments]


def polytask(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )


def metrics(run: Path) -> list[dict[str, float]]:
    """All numbers of a run but the times."""
    with (run / "metrics.csv").open() as file:
        return [
            {key: float(value) for key, value in row.items() if value and not key.endswith("seconds")}
            for row in csv.DictReader(file)
        ]


def partners(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a process has started."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in listed if b"polytask.training.partner" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_for(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "changes",
    [
        ("balancing.type=upgrad", "training.accumulate=2", "model.sharing.type=soft"),
        ("balancing.type=famo", "schedule={type: alternating, order: proportional}"),
    ],
)
def test_two_processes_give_the_numbers_of_one(folder, changes):
    polytask(folder, "config.yaml", *changes, "-o", "one", "-q")
    polytask(folder, "config.yaml", *changes, "training.devices=2", "-o", "two", "-q")
    one, two = metrics(folder / "one"), metrics(folder / "two")
    assert len(one) == len(two) == 2
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-4, abs=1e-5)
    assert not list((folder / "two").glob("process-*"))


def test_a_run_of_two_processes_that_was_killed_goes_on_as_if_it_had_not_been(folder):
    changes = (
        "training.devices=2",
        "training.checkpoint_every=2",
        "training.epochs=3",
        "model.encoders.row.dropout=0.3",
    )
    polytask(folder, "config.yaml", *changes, "-o", "whole", "-q")
    process = start(folder, "config.yaml", *changes, "-o", "killed", "-q")
    checkpoint = folder / "killed" / "checkpoints" / "last.ckpt"
    wait_for(checkpoint.is_file)
    others = partners(process)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in others))
    polytask(folder, "--resume", "killed", "-q")
    assert metrics(folder / "killed") == metrics(folder / "whole")


def test_a_process_that_ends_is_named_and_its_log_is_kept(folder):
    process = start(folder, "config.yaml", "training.devices=2", "training.epochs=2000", "-o", "run", "-q")
    wait_for((folder / "run" / "checkpoints" / "last.ckpt").is_file)
    (other,) = partners(process)
    os.kill(other, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Process 2 of 2 stopped: exit code -9. Its last words: run/process-1.log" in output.replace("\n", " ")
    assert (folder / "run" / "process-1.log").is_file()
    assert "Process 2 of 2 stopped" in (folder / "run" / "log.txt").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("devices", [1, 2])
def test_what_ends_a_training_says_how_to_go_on_and_leaves_nothing_behind(folder, devices, number):
    process = start(folder, "config.yaml", f"training.devices={devices}", "training.epochs=2000", "-o", "run", "-q")
    wait_for((folder / "run" / "checkpoints" / "last.ckpt").is_file)
    others = partners(process)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "polytask train --resume run" in output.replace("\n", " ")
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in others)
    assert not list((folder / "run").glob("process-*"))


def test_the_reason_of_another_process_is_the_reason(folder):
    (folder / "own.py").write_text(
        "import torch\nfrom polytask.errors import UserError\nfrom polytask.balancing import Equal\n\n\n"
        "class Failing(Equal):\n"
        '    """Fails where it is not the first process."""\n\n'
        "    def combine(self, losses):\n"
        "        if torch.distributed.get_rank() == 1:\n"
        '            raise UserError("The second one cannot go on.")\n'
        "        return super().combine(losses)\n"
    )
    output = polytask(
        folder, "config.yaml", "balancing={type: own.Failing}", "training.devices=2", "-o", "run", "-q", code=2
    )
    assert "Process 2 of 2 stopped: The second one cannot go on." in output.replace("\n", " ")


def test_what_a_process_prints_before_its_work_begins_is_no_report(folder, monkeypatch):
    (folder / "sitecustomize.py").write_text("print('hello')\nprint(1)\nprint('no end of line', end='')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    polytask(folder, "config.yaml", "training.devices=2", "training.epochs=1", "-o", "run", "-q")
    assert len(metrics(folder / "run")) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("schedule.type=meta",), "Meta-learning runs in one process"),
        (("balancing={type: auto_lambda, main: [price]}",), "auto_lambda looks ahead, in one process only"),
        (("balancing={type: upgrad, on: features}",), "on: features looks at the features of one batch"),
        (("training.devices=0",), "expected a number of at least 1 or 'auto'"),
    ],
)
def test_what_cannot_be_in_several_processes_is_said_before(folder, changes, message):
    output = polytask(folder, "config.yaml", "training.devices=2", *changes, "-o", "run", code=2)
    assert message in " ".join(output.split())
    assert not (folder / "run").exists()


def test_what_torchrun_started_is_refused(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "Polytask starts its processes itself" in polytask(folder, "config.yaml", "-o", "run", code=2)
