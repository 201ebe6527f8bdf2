"""A killed run, resumed, gives the numbers of an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.integration

SETTINGS = [
    "training.epochs=12",
    "training.batch_size=8",
    "training.accumulate=2",
    "training.optimizer={type: adamw, lr: 0.01}",
    "training.lr_schedule={type: plateau, patience: 1}",
    "training.early_stopping={patience: 11}",
]


@pytest.mark.parametrize(
    "stateful",
    [
        "balancing={type: uncertainty, lr: 0.02}",
        "balancing={type: upgrad, every: 5, smoothing: 0.5}",
        "balancing={type: pcgrad}",
        "balancing={type: moco, gamma: 0.1}",
        "balancing={type: famo, same_batch: true}",
        "model.sharing={type: ltb}",
        "model.sharing={type: man, discriminator_steps: 2, common_until: 1}",
        "model.sharing={type: mmoe, gate_dropout: 0.2}",
    ],
)
def test_a_killed_run_resumed_equals_the_uninterrupted_one(config: Path, polytask, process, stateful):
    settings = [*SETTINGS, stateful]
    assert polytask("train", config, *settings, "-o", "whole", "-q")[0] == 0

    killed = subprocess.Popen(
        [sys.executable, "-m", "polytask", "train", str(config), *settings, "-o", "killed", "-q"],
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = config.parent / "killed" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 4):
        assert killed.poll() is None and time.monotonic() < deadline, killed.communicate()[0]
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    epochs = len(pd.read_csv(metrics))
    assert epochs < 12, "it was killed too late to prove anything"
    assert not (config.parent / "killed" / "model" / "weights.safetensors").exists()

    code, _out, err = polytask("train", "--resume", "killed", "-q")
    assert code == 0, err
    whole, resumed = pd.read_csv(config.parent / "whole" / "metrics.csv"), pd.read_csv(metrics)
    pd.testing.assert_frame_equal(whole, resumed, rtol=0, atol=1e-6)
    assert len(whole) == 12
    assert (config.parent / "whole" / "config.yaml").read_text() == (
        config.parent / "killed" / "config.yaml"
    ).read_text()

    one, other = (polytask("evaluate", run, "--json")[1] for run in ("whole", "killed"))
    assert one == other


def test_a_run_killed_within_its_first_epoch_goes_on_from_there(config: Path, polytask):
    settings = [
        "schedule={type: alternating, order: random}",
        "training.epochs=2",
        "training.epoch_length=800",
        "training.batch_size=8",
        "training.checkpoint_every=50",
    ]
    assert polytask("train", config, *settings, "-o", "whole", "-q")[0] == 0
    command = [sys.executable, "-m", "polytask", "train", str(config), *settings, "-o", "killed", "-q"]
    killed = subprocess.Popen(command, cwd=config.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last = config.parent / "killed" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.is_file():
        assert killed.poll() is None and time.monotonic() < deadline, killed.communicate()[0]
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    metrics = config.parent / "killed" / "metrics.csv"
    assert not metrics.exists(), "it was killed too late to prove anything"

    code, _out, err = polytask("train", "--resume", "killed", "-q")
    assert code == 0, err
    assert metrics.read_text() == (config.parent / "whole" / "metrics.csv").read_text()
    one, other = ((config.parent / run / "model" / "weights.safetensors").read_bytes() for run in ("whole", "killed"))
    assert one == other


def test_a_run_killed_before_its_first_epoch_can_be_resumed(config: Path, polytask):
    assert polytask("train", config, "-o", "whole", "-q")[0] == 0
    assert polytask("train", config, "-o", "early", "-q")[0] == 0
    early = config.parent / "early"
    for path in [*early.glob("checkpoints/*"), *early.glob("model/*"), early / "summary.json", early / "metrics.csv"]:
        path.unlink()
    code, _, err = polytask("train", "--resume", "early", "-q")
    assert code == 0, err
    assert (early / "metrics.csv").read_text() == (config.parent / "whole" / "metrics.csv").read_text()


def test_a_finished_run_is_not_resumed(config: Path, polytask):
    polytask("train", config, "-o", "run", "-q")
    code, _, err = polytask("train", "--resume", "run")
    assert code == 2
    assert "has finished already" in err


def test_a_run_whose_data_changed_is_not_resumed(config: Path, polytask):
    polytask("train", config, "-o", "run", "-q")
    summary = config.parent / "run" / "summary.json"
    summary.write_text(summary.read_text().replace('"finished"', '"running"'))
    table = config.with_suffix(".csv")
    table.write_text(table.read_text() + "150.0,Ulm,no,50\n")
    code, _, err = polytask("train", "--resume", "run")
    assert code == 2
    assert "have changed" in err
