"""A run that is killed within an epoch goes on as if nothing had happened, bit for bit."""

from collections.abc import Mapping
from functools import partialmethod
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from polytask.config import Config
from polytask.data.preparation import Preparation
from polytask.training.atomic import write_text
from polytask.training.module import MultiTaskModule
from polytask.training.run_folder import RunFolder
from polytask.training.train import resume, train

pytestmark = pytest.mark.integration

ROWS = 120


class Killed(BaseException):
    """What stands for SIGKILL: nothing catches it to write anything."""


@pytest.fixture
def people(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    height, city = draw.normal(170, 10, ROWS), draw.choice(["Ulm", "Jena", "Bonn"], ROWS)
    tall = np.where(height + draw.normal(0, 3, ROWS) > 170, "yes", "no").astype(object)
    weight = 0.9 * height - 90 + draw.normal(0, 3, ROWS)
    tall[draw.random(ROWS) < 0.2] = None
    weight[draw.random(ROWS) < 0.5] = np.nan
    words = draw.choice(["good", "bad", "film", "plot"], (ROWS, 4))
    table = pd.DataFrame({"height": height.round(2), "city": city, "tall": tall, "weight": weight.round(2)})
    table["review"] = [" ".join(row) for row in words]
    table["importance"] = draw.integers(0, 4, ROWS)
    path = tmp_path / "people.csv"
    table.to_csv(path, index=False)
    return path


def config(people: Path, **changes) -> Config:
    training = {"epochs": 3, "batch_size": 16, "tensorboard": False, "checkpoint_every": 2, "log_every": 3}
    values = {
        "data": {"train": str(people)},
        "inputs": {"row": {"type": "tabular", "columns": ["height", "city"]}},
        "tasks": {"tall": "classification", "weight": "regression"},
        "model": {"encoders": {"row": {"type": "mlp", "width": 8, "depth": 2, "dropout": 0.2}}},
        **changes,
    }
    values["training"] = {**training, **values.get("training", {})}
    return Config.from_mapping(values)


def killed_after(step: int, settings: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MultiTaskModule.training_step

    def training_step(self, batches, batch_index):
        if self.steps == step:
            raise Killed
        original(self, batches, batch_index)

    with monkeypatch.context() as patched:
        patched.setattr(MultiTaskModule, "training_step", training_step)
        with pytest.raises(Killed):
            train(settings, folder)


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def agree(one: RunFolder, other: RunFolder) -> None:
    assert one.metrics.read_text() == other.metrics.read_text()
    for name in ("last", "best"):
        mine, theirs = (torch.load(getattr(run, name), weights_only=True) for run in (one, other))
        assert mine["polytask"]["step_log"] == theirs["polytask"]["step_log"]
        for part in ("state_dict", "optimizer_states"):
            assert same(mine[part], theirs[part]), part
    assert (one.model / "weights.safetensors").read_bytes() == (other.model / "weights.safetensors").read_bytes()


UNLABELLED = {
    "training": {
        "unlabelled_batch_size": 7,
        "tasks": {
            "tall": {"unlabelled": {"type": "pseudo_labels", "threshold": 0.6}},
            "weight": {"unlabelled": {"type": "consistency", "weight": 5.0}},
        },
    }
}
TEXT = {
    "inputs": {"text": {"type": "text", "column": "review", "tokenizer": "words", "buckets": 50}},
    "model": {"encoders": {"text": {"type": "bag", "dim": 8}}},
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": {"type": "alternating", "order": "temperature", "consecutive": 2}},
        {"schedule": "alternating", "training": {"accumulate": 3, "epoch_length": 7}},
        {"training": {"accumulate": 2, "batch_size": 8, "checkpoint_every": 1}, "balancing": {"type": "pcgrad"}},
        {"balancing": {"type": "upgrad", "every": 5, "smoothing": 0.5}},
        {"balancing": {"type": "famo", "same_batch": True}},
        {"balancing": {"type": "uncertainty", "lr": 0.02}, "training": {"lr_schedule": {"type": "plateau"}}},
        {"model": {"sharing": "ltb"}},
        {"model": {"sharing": {"type": "man", "discriminator_steps": 2, "common_until": 1}}},
        {"training": {"transfer": {"freeze": 1, "unfreeze_every": 1}}},
        TEXT,
        {**TEXT, "training": {"sampler": {"type": "by_length", "chunk": 2}}},
        {
            "schedule": {"type": "joint", "draw": "tasks"},
            "training": {
                "accumulate": 2,
                "tasks": {
                    "tall": {"batch_size": 4, "sampler": "class_balanced"},
                    "weight": {"batch_size": 3, "sampler": {"type": "weighted", "column": "importance"}},
                },
            },
        },
        {"tasks": {"tall": {"type": "classification", "sample_weight": "importance"}, "weight": "regression"}},
        {
            "inputs": {"row": {"type": "tabular", "columns": ["height"]}},
            "training": {"accumulate": 2, "batch_size": 8, "tasks": {"tall": {"mixing": "mixup"}}},
        },
        {
            "inputs": {"row": {"type": "tabular", "columns": ["height"]}},
            "schedule": "alternating",
            "training": {"tasks": {"tall": {"mixing": {"type": "mixup", "alpha": 1.0, "probability": 0.6}}}},
            "balancing": {"type": "modo"},
        },
        UNLABELLED,
        {**UNLABELLED, "schedule": {"type": "alternating", "order": "random"}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_it_equals_the_uninterrupted_run(people, tmp_path, monkeypatch, changes):
    settings = config(people, **changes)
    whole = train(settings, tmp_path / "whole")
    steps = torch.load(whole.last, weights_only=True)["polytask"]["steps"] // 3
    assert steps > 4, "an epoch has to be long enough to be killed in the middle"
    killed_after(steps + steps // 2 + 1, settings, tmp_path / "killed", monkeypatch)
    state = torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)["polytask"]
    assert state["plan"]["epoch"] == 1
    assert 0 < state["plan"]["done"] < steps
    agree(whole, resume(tmp_path / "killed"))


def test_workers_prepare_only_what_is_left(people, tmp_path, monkeypatch):
    # Without a cache each batch is encoded when it is asked for, so that workers are started.
    monkeypatch.setattr(Preparation, "loader", partialmethod(Preparation.loader, cache_bytes=0))
    settings = config(people, **TEXT, schedule="alternating", training={"workers": 2, "epochs": 2})
    whole = train(settings, tmp_path / "whole")
    killed_after(5, settings, tmp_path / "killed", monkeypatch)
    agree(whole, resume(tmp_path / "killed"))


def test_it_can_be_killed_again_and_again(people, tmp_path, monkeypatch):
    settings = config(people, schedule={"type": "alternating", "order": "random"})
    whole = train(settings, tmp_path / "whole")
    killed_after(3, settings, tmp_path / "killed", monkeypatch)
    original = MultiTaskModule.training_step
    for step in (5, 9, 13, 14):

        def training_step(self, batches, batch_index, step=step):
            if self.steps == step:
                raise Killed
            original(self, batches, batch_index)

        with monkeypatch.context() as patched:
            patched.setattr(MultiTaskModule, "training_step", training_step)
            with pytest.raises(Killed):
                resume(tmp_path / "killed")
    agree(whole, resume(tmp_path / "killed"))


def test_checkpoints_within_epochs_change_nothing(people, tmp_path):
    often = train(config(people, training={"checkpoint_every": 1}), tmp_path / "often")
    never = train(config(people, training={"checkpoint_every": None}), tmp_path / "never")
    agree(often, never)


@pytest.mark.parametrize("missing", ["metrics", "best"])
def test_a_run_that_is_killed_right_after_its_last_checkpoint_is_completed(people, tmp_path, missing):
    settings = config(people, training={"optimizer": {"type": "adamw", "lr": 0.01}})
    whole = train(settings, tmp_path / "whole")
    run = train(settings, tmp_path / "run")
    epochs = torch.load(run.last, weights_only=True)["polytask"]["epochs"]
    assert epochs["best"]["epoch"] == 2, "the last epoch is the best"
    run.write_summary({**run.read_summary(), "status": "running"})
    if missing == "best":
        (run.root / "checkpoints" / "best.ckpt").write_bytes(b"that of an earlier epoch")
    else:
        write_text(run.metrics, run.metrics.read_text().rsplit("\n", 2)[0] + "\n")
    agree(whole, resume(run.root))
