"""Mixup and CutMix from a configuration: on images, and on a table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from polytask.config import Config
from polytask.training.mixed_batches import MixedBatches
from polytask.training.train import train

pytestmark = pytest.mark.integration

ROWS = 60

CONFIG = """\
data: {train: pictures.csv, split: {valid: 0.2, test: 0.2}}
inputs:
  picture: {type: image, column: picture, channels: 1, flip: true}
tasks:
  shade: {type: classification}
  side: {type: classification}
  light: {type: regression}
model:
  encoders:
    picture: {type: cnn, width: 4, depth: 2}
training:
  epochs: 2
  batch_size: 12
  tensorboard: false
  tasks:
    shade: {mixing: cutmix}
    side: {mixing: {type: mixup, alpha: 0.4, probability: 0.5}}
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Small grey pictures, one half of which is lighter; some have no label for a task."""
    draw = np.random.default_rng(0)
    table = []
    for row in range(ROWS):
        shade, side = draw.integers(2, size=2)
        pixels = draw.integers(0, 60, (6, 6)) + 80 * shade
        pixels[:, 3 * side : 3 * side + 3] += 60
        name = f"{row}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
        table.append(
            {
                "picture": name,
                "shade": ["dark", "light"][shade] if row % 5 else None,
                "side": ["left", "right"][side],
                "light": pixels.mean() if row % 3 else None,
            }
        )
    pd.DataFrame(table).to_csv(tmp_path / "pictures.csv", index=False)
    path = tmp_path / "pictures.yaml"
    path.write_text(CONFIG)
    return path


def test_it_trains_evaluates_and_predicts(pictures, polytask, monkeypatch):
    steps = []
    original = MixedBatches.of

    def of(self, batches, step):
        found = original(self, batches, step)
        steps.append([(tuple(part.labelled), part.partners is not None) for part in found])
        return found

    monkeypatch.setattr(MixedBatches, "of", of)
    monkeypatch.chdir(pictures.parent)
    code, _, errors = polytask("train", pictures, "name=run", "--quiet")
    assert code == 0, errors
    # Only training mixes: three steps in each of two epochs.
    assert len(steps) == 6
    assert all((("shade",), True) in step for step in steps)
    assert {(("side",), True) in step for step in steps} == {True, False}
    assert all(not mixed for step in steps for tasks, mixed in step if "light" in tasks)
    run = next(pictures.parent.rglob("summary.json")).parent
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    record = pd.read_csv(run / "metrics.csv")
    assert np.isfinite(record[["shade/train/loss", "side/train/loss", "light/train/loss"]].to_numpy()).all()
    kept = yaml.safe_load((run / "config.yaml").read_text())["training"]["tasks"]
    assert kept["shade"]["mixing"] == {"type": "cutmix", "alpha": 1.0, "probability": 1.0}
    assert polytask("evaluate", run)[0] == 0
    assert polytask("predict", run, pictures.with_name("pictures.csv"), "--output", pictures.with_name("p.csv"))[0] == 0


def test_a_task_that_shares_nothing_learns_as_if_no_other_task_were_mixed(pictures):
    def weights(name: str, own: dict) -> dict[str, torch.Tensor]:
        values = yaml.safe_load(CONFIG)
        values["data"]["train"] = str(pictures.with_suffix(".csv"))
        values["model"]["sharing"] = {"type": "hard", "share_until": 0}
        values["training"].update(tasks=own, gradient_clip=None)
        run = train(Config.from_mapping(values), pictures.parent / name)
        return torch.load(run.last, weights_only=True)["state_dict"]

    mixed = weights("mixed", {"shade": {"mixing": "cutmix"}, "side": {"mixing": "mixup"}})
    plain = weights("plain", {})
    for task in ("shade", "side", "light"):
        head = [key for key in plain if f".heads.{task}." in f".{key}"]
        assert head
        same = all(torch.allclose(mixed[key], plain[key], atol=1e-6) for key in head)
        assert same == (task == "light"), task


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("picture: {type: tabular, columns: [height, city]}", "1 of its columns has categories"),
        ("picture: {type: tabular, columns: [height]}", None),
    ],
)
def test_a_table_must_be_of_numbers_alone(tmp_path, polytask, inputs, message):
    draw = np.random.default_rng(0)
    table = {"height": draw.normal(size=40), "city": draw.choice(["a", "b"], 40), "tall": draw.choice(["y", "n"], 40)}
    pd.DataFrame(table).to_csv(tmp_path / "t.csv", index=False)
    path = tmp_path / "t.yaml"
    path.write_text(
        f"data: {{train: t.csv}}\ninputs:\n  {inputs}\ntasks: {{tall: classification}}\n"
        "training: {epochs: 1, tensorboard: false, tasks: {tall: {mixing: mixup}}}\n"
    )
    code, _, errors = polytask("train", path, "--quiet")
    assert code == (0 if message is None else 2), errors
    if message is not None:
        assert message in errors and "training.tasks.tall.mixing: the input 'picture' cannot be mixed" in errors


def test_an_adversary_is_no_match_for_it(pictures, polytask):
    code, _, errors = polytask("train", pictures, "model.sharing.type=adversarial", "--quiet")
    assert code == 2
    assert "training.tasks.shade.mixing: the sharing scheme 'adversarial' learns to tell" in errors
