"""Every schedule trains from a configuration; stopped after any epoch and resumed, it ends with the same numbers."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from polytask import UserError, schedules
from polytask.config import load_config
from polytask.schedules import orders
from polytask.training.epochs import EpochSink
from polytask.training.train import resume, train

pytestmark = pytest.mark.integration

EPOCHS = 4
REFERENCE = {"tall/valid/accuracy": 0.9, "weight/valid/mae": 4.0, "light/valid/accuracy": 0.9}
SCHEDULES = {
    "joint": {},
    **{
        f"alternating {name}": {"order": {"type": name, **({"reference": REFERENCE} if name == "by_gap" else {})}}
        for name in orders.names()
    },
    "hybrid": {"groups": [["tall", "light"], ["weight"]], "order": "proportional"},
    "hybrid affinity": {"groups": "affinity", "number": 2, "probes": 2},
    "curriculum": {
        "start": {"weight": 2, "light": {"after": "tall", "metric": "gain", "reaches": -9.0}},
        "within": {"type": "alternating", "order": "learned"},
        "freeze": {"layer1": [2, 3]},
    },
    "meta reptile": {"inner_steps": 3},
    "meta fomaml": {"algorithm": "fomaml", "inner_steps": 2, "order": "proportional"},
    "pretrain_finetune": {"pretrain": ["tall", "light"], "epochs": 2, "freeze": True},
}


@pytest.fixture
def three(config: Path, people: Path) -> Path:
    """Three tasks on a table with holes."""
    table = pd.read_csv(people)
    table["light"] = table["weight"].map(lambda value: None if pd.isna(value) else "yes" if value < 65 else "no")
    table.loc[table.index % 3 == 0, "light"] = None
    table.to_csv(people, index=False)
    config.write_text(
        config.read_text()
        .replace("model:", "  light: {type: classification}\nmodel:")
        .replace("epochs: 3", f"epochs: {EPOCHS}")
    )
    return config


class Killer(EpochSink):
    """Stands in for a display, and stops the training after an epoch as a signal would: without any tidying up."""

    def __init__(self, after: int) -> None:
        self._left = after

    def epoch_done(self, record, improved):
        self._left -= 1
        if self._left == 0:
            raise Killed

    def job(self, job):
        pass

    def callback(self):
        return Callback()

    def stop(self):
        pass


class Killed(BaseException):
    pass


def numbers(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "metrics.csv")


def overridden(name: str, parameters: dict) -> list[str]:
    return [f"schedule={json.dumps({'type': name.partition(' ')[0], **parameters})}"]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_trains_and_resumes(three: Path, name: str):
    config = load_config(three, overridden(name, SCHEDULES[name]))
    again = type(config).from_mapping(config.to_mapping())
    assert again.to_yaml() == config.to_yaml()
    whole = train(config, three.parent / "whole")
    expected = numbers(whole.root)
    assert len(expected) == EPOCHS
    assert expected["valid/mean_gain"].notna().all()
    for after in (1, 3):
        root = three.parent / f"stopped after {after}"
        with pytest.raises(Killed):
            train(config, root, display=Killer(after))
        assert len(numbers(root)) == after
        resume(root)
        pd.testing.assert_frame_equal(numbers(root), expected, rtol=0, atol=1e-6)
        shutil.rmtree(root)


def test_every_schedule_is_here():
    assert {name.split()[0] for name in SCHEDULES} == set(schedules.names())


def test_alternating_with_one_task_is_plain_training(config: Path):
    alone = load_config(config).only_task("weight").to_mapping()
    runs = {}
    for name in ("joint", "alternating"):
        one = type(load_config(config)).from_mapping({**alone, "schedule": {"type": name}})
        runs[name] = numbers(train(one, config.parent / name).root)
    assert (runs["alternating"].pop("weight/train/share") == 1).all()
    pd.testing.assert_frame_equal(runs["joint"], runs["alternating"], rtol=0, atol=0)


def test_tasks_have_the_shares_of_the_steps_that_they_should(three: Path):
    config = load_config(three, overridden("pretrain_finetune", SCHEDULES["pretrain_finetune"]))
    found = numbers(train(config, three.parent / "run").root)
    assert found["tall/train/share"].tolist() == found["light/train/share"].tolist() == [1, 1, 0, 0]
    assert found["weight/train/share"].tolist() == [0, 0, 1, 1]
    assert found["weight/train/loss"].isna().tolist() == [True, True, False, False]
    # Epochs have the steps of the tasks that are there.
    assert found["step"].diff().nunique() > 1


def test_a_frozen_encoder_does_not_learn_in_the_second_phase(three: Path):
    config = load_config(three, overridden("pretrain_finetune", SCHEDULES["pretrain_finetune"]))
    shorter = load_config(
        three, [*overridden("pretrain_finetune", {"pretrain": ["tall", "light"], "epochs": 2}), "training.epochs=3"]
    )
    weights = []
    for each, root in ((config, "frozen"), (shorter, "free")):
        with pytest.raises(Killed):
            train(each, three.parent / root, display=Killer(2))
        phases = [torch.load(three.parent / root / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]]
        resume(three.parent / root)
        phases.append(torch.load(three.parent / root / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
        weights.append([{key: value for key, value in phase.items() if ".trunk." in key} for phase in phases])
    (before, after), (free_before, free_after) = weights
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert any(not torch.equal(free_before[key], free_after[key]) for key in free_before)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"type": "hybrid", "groups": [["tall", "light"]]}, "schedule: groups lacks the task 'weight'"),
        (
            {"type": "curriculum", "start": {"light": {"after": "weight", "metric": "accuracy", "reaches": 1}}},
            "metric 'accuracy' of 'weight', which has no such metric",
        ),
        ({"type": "curriculum", "start": {"light": 9}}, "schedule: start never lets 'light' start"),
        ({"type": "curriculum", "start": {"light": {"after": "tall"}}}, "schedule.start.light"),
        ({"type": "alternating", "order": {"type": "by_loss", "powr": 1}}, "schedule.order.powr.*Did you mean 'power'"),
        ({"type": "alternating", "order": "by_los"}, "schedule.order.*Did you mean 'by_loss'"),
        (
            {"type": "curriculum", "start": {"light": 2}, "within": {"type": "alternating", "order": {"type": "x"}}},
            "schedule.within.order.type: There is no order 'x'",
        ),
        ({"type": "pretrain_finetune", "pretrain": ["tall"], "epochs": 4}, "nothing is left for the second phase"),
        ({"type": "alternating", "order": {"type": "temperature", "temperature": 0}}, "temperature is 0, but must be"),
    ],
)
def test_mistakes_are_found_before_the_training(three: Path, schedule: dict, message: str):
    with pytest.raises(UserError, match=message):
        load_config(three, [f"schedule={json.dumps(schedule)}"])


def test_scores_are_needed_where_a_schedule_goes_by_them(three: Path):
    parameters = {"start": {"light": {"after": "tall", "metric": "accuracy", "reaches": 0.5}}}
    config = load_config(three, [*overridden("curriculum", parameters), "data.split.valid=0"])
    with pytest.raises(UserError, match="schedule: 'curriculum' goes by scores on validation data here, but there are"):
        train(config, three.parent / "run")


def test_meta_learning_takes_no_accumulation(three: Path):
    config = load_config(three, [*overridden("meta", {}), "training.accumulate=2"])
    with pytest.raises(UserError, match="training.accumulate is 2, but in meta-learning a step has a batch for each"):
        train(config, three.parent / "run")
