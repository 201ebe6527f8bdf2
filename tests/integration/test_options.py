"""Every option of training does what it says, through the command line."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

pytestmark = pytest.mark.integration


@pytest.fixture
def train(config: Path, polytask):
    """Train with overrides; gives the metrics and the folder."""

    def run(*overrides: str, name: str = "run") -> tuple[pd.DataFrame, Path]:
        code, _, err = polytask("train", config, *overrides, "-q", "-o", name)
        assert code == 0, err
        return pd.read_csv(config.parent / name / "metrics.csv"), config.parent / name

    return run


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoints" / f"{which}.ckpt", weights_only=True)["state_dict"]
    return {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.precision=bf16-mixed"],
        ["training.optimizer={type: sgd, lr: 0.05, momentum: 0.9}", "training.lr_schedule={type: step, every: 1}"],
        ["training.optimizer=adam", "training.lr_schedule=one_cycle"],
        ["training.lr_schedule={type: plateau, patience: 1}", "training.gradient_clip=null"],
        ["balancing={type: static, weights: {tall: 1.0, weight: 0.25}}"],
        ["model.sharing.share_until=layer1"],
        ["model.sharing.share_until=0", "balancing=uncertainty"],
        ["model.encoders.row=ft_transformer", "model.encoders.row.dim=16", "model.encoders.row.depth=1"],
        ["model.encoders.row=tabular_resnet"],
        ["model.relations=[{type: cascade, task: weight, reads: tall}]", "balancing=upgrad"],
        ["model.relations=[{type: cross_task_attention, task: tall, reads: [weight]}]", "model.sharing.share_until=1"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_it_trains_and_evaluates(train, polytask, overrides):
    metrics, run = train(*overrides)
    assert len(metrics) == 3
    assert metrics["tall/train/loss"].iloc[-1] < metrics["tall/train/loss"].iloc[0]
    code, out, err = polytask("evaluate", run, "--json")
    assert code == 0, err
    assert set(json.loads(out)["tasks"]) == {"tall", "weight"}


def test_the_number_of_workers_changes_nothing(train):
    alone, _ = train("training.workers=0", name="a")
    helped, _ = train("training.workers=2", name="b")
    pd.testing.assert_frame_equal(alone, helped)


def test_the_seed_decides_everything(train):
    same, _ = train(name="a")
    again, _ = train(name="b")
    other, _ = train("training.seed=1", name="c")
    pd.testing.assert_frame_equal(same, again)
    assert not same.equals(other)


def test_accumulation_takes_as_many_steps_as_larger_batches(train):
    large, _ = train("training.batch_size=32", name="a")
    small, _ = train("training.batch_size=16", "training.accumulate=2", name="b")
    assert list(large.step) == list(small.step)


def test_accumulated_batches_give_the_gradient_of_one_large_batch(train):
    """All rows labelled, no dropout, plain SGD: the weights after training agree."""
    plain = [
        "tasks={height2: {type: regression, target: height}}",
        "inputs.row.columns=[city]",
        "model.encoders.row.dropout=0",
        "training.optimizer={type: sgd, lr: 0.1}",
        "training.gradient_clip=null",
        "data.split.valid=0.1",
    ]
    _, large = train(*plain, "training.batch_size=64", name="a")
    _, small = train(*plain, "training.batch_size=32", "training.accumulate=2", name="b")
    for key, value in weights(large).items():
        torch.testing.assert_close(weights(small)[key], value, rtol=1e-4, atol=1e-5)


def test_early_stopping_ends_before_the_last_epoch(train):
    metrics, run = train("training.epochs=50", "training.optimizer.lr=1e-9", "training.early_stopping={patience: 2}")
    assert len(metrics) < 50
    assert json.loads((run / "summary.json").read_text())["epochs"] == len(metrics)


def test_selection_by_one_metric(train):
    metrics, run = train("training.epochs=6", "training.selection=weight/valid/rmse")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["selection"] == "weight/valid/rmse"
    assert summary["best_epoch"] == int(metrics["weight/valid/rmse"].idxmin()) + 1


def test_without_validation_data_the_last_epoch_stands(train, polytask):
    metrics, run = train("data.split.valid=0")
    assert not [column for column in metrics if "/valid/" in column]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best_epoch"] == 3 and summary["best_value"] is None
    assert polytask("evaluate", run)[0] == 0


def test_without_validation_data_the_last_epoch_stands_for_a_criterion_that_is_to_be_low_too(train):
    _, run = train("data.split.valid=0", "training.selection=weight/valid/mae")
    assert json.loads((run / "summary.json").read_text())["best_epoch"] == 3
    last, best = weights(run, "last"), weights(run, "best")
    assert all(torch.equal(last[key], best[key]) for key in last)


def test_a_tasks_weight_scales_its_update_and_not_its_logged_loss(train):
    none, first = train("tasks.tall.weight=0", "model.sharing.share_until=0", "training.optimizer=sgd", name="a")
    _, second = train("tasks.tall.weight=0", "model.sharing.share_until=0", "training.optimizer=sgd", name="b")
    assert none["tall/train/loss"].min() > 0.3, "logged as it is"
    assert none["tall/train/loss"].std() < 0.05, "and not learned"
    assert weights(first).keys() == weights(second).keys()


def test_frozen_stages_keep_their_weights_and_thaw(train):
    fixed = "training.transfer={freeze: layer1}"
    _, run = train(fixed, "training.epochs=1", name="a")
    _, longer = train(fixed, "training.epochs=3", name="b")
    _, thawed = train("training.transfer={freeze: layer1, unfreeze_every: 1}", "training.epochs=3", name="c")
    first, after, free = weights(run), weights(longer), weights(thawed)
    below = [key for key in first if ".embed." in key or ".layer1." in key]
    above = [key for key in first if ".layer2." in key]
    assert below and above
    assert all(torch.equal(first[key], after[key]) for key in below)
    assert not all(torch.equal(first[key], after[key]) for key in above)
    assert not all(torch.equal(first[key], free[key]) for key in below)


def test_an_unknown_stage_is_named_with_those_there_are(config: Path, polytask):
    code, _, err = polytask("train", config, "training.transfer.freeze=layer7", "-o", "run")
    assert code == 2
    assert "training.transfer.freeze" in err and "layer7" in err and "'layer2'" in err
    assert not (config.parent / "run").exists()


def test_float16_without_a_gpu_is_refused_and_not_replaced_silently(config: Path, polytask):
    code, _, err = polytask("train", config, "training.precision=16-mixed", "training.accelerator=cpu", "-o", "run")
    assert code == 2
    assert "training.precision" in err and "bf16-mixed" in err


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(config: Path, polytask):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, _, err = polytask("train", config, "training.accelerator=cuda", "-o", "run")
    assert code == 2
    assert "training.accelerator is cuda" in err
    assert not (config.parent / "run").exists()
