"""What rows count in the losses: as if they were there as often."""

import numpy as np
import pandas as pd
import pytest
import torch

from polytask.config import Config
from polytask.data.inputs import create as create_input
from polytask.data.preparation import Preparation
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.evaluation.run import Run
from polytask.labels import TargetSpec
from polytask.tasks import Classification, MultiLabel, Regression, Task
from polytask.training.job import make_job
from polytask.training.train import train

ROWS = 24
SPECS = {
    "size": TargetSpec("numbers", ("size", "width"), sample_weight="w"),
    "kind": TargetSpec("category", ("kind",), sample_weight="w"),
    "tags": TargetSpec("labels", ("p", "q"), sample_weight="v"),
}


def values() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    found = pd.DataFrame({"x": draw.normal(size=ROWS), "size": draw.normal(size=ROWS), "width": draw.normal(size=ROWS)})
    found["kind"] = draw.choice(["a", "b", "c"], ROWS)
    found["p"], found["q"] = draw.choice(["yes", "no"], ROWS), draw.choice(["yes", "no"], ROWS)
    found["w"], found["v"] = draw.integers(0, 4, ROWS), draw.integers(1, 4, ROWS)
    for column in ("size", "width", "kind", "p"):
        found.loc[draw.random(ROWS) < 0.3, column] = None
    return found


def batch(table: pd.DataFrame, rows=None, cache_bytes=2**30, training=True):
    table = Table.of(table, source="t.csv")
    rows = np.arange(len(table)) if rows is None else rows
    inputs = {"row": create_input("tabular", columns=["x"])}
    prepared = Preparation.fit(table, np.arange(len(table)), inputs, SPECS)
    loader = prepared.loader(table, rows, batch_size=1000, training=training, cache_bytes=cache_bytes)
    (found,) = loader
    return found


def tasks() -> dict[str, Task]:
    made = [
        Regression(["size", "width"], name="size", loss="huber"),
        Classification("kind", classes=["a", "b", "c"], class_weights={"a": 3.0}, label_smoothing=0.1),
        MultiLabel(["p", "q"], name="tags", pos_weight={"p": 2.0}),
    ]
    return {task.name: task for task in made}


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
@pytest.mark.parametrize("name", SPECS)
def test_whole_weights_are_as_good_as_rows_that_are_there_as_often(name, cache_bytes):
    table, task = values(), tasks()[name]
    found = batch(table, cache_bytes=cache_bytes)
    weights, target, mask = found.weights[name], found.targets[name], found.masks[name]
    expected = torch.tensor(table[SPECS[name].sample_weight].to_numpy()[found.rows.numpy()], dtype=torch.float32)
    torch.testing.assert_close(weights, expected)
    output = torch.randn(ROWS, task.outputs, generator=torch.Generator().manual_seed(0), requires_grad=True)
    often = torch.arange(ROWS).repeat_interleave(weights.long())
    once, repeated = task.loss(output, target, mask, weights), task.loss(output[often], target[often], mask[often])
    torch.testing.assert_close(once, repeated)
    gradients = [torch.autograd.grad(loss, output, retain_graph=True)[0] for loss in (once, repeated)]
    torch.testing.assert_close(*gradients)


def test_an_empty_cell_counts_1_and_is_told(caplog):
    table = values()
    table["v"] = table["v"].astype(float)
    table.loc[[1, 2], "v"] = np.nan
    with caplog.at_level("INFO", "polytask"):
        found = batch(table)
    assert found.weights["tags"][torch.isin(found.rows, torch.tensor([1, 2]))].tolist() == [1.0, 1.0]
    assert "Task 'tags': 2 labelled training rows have no 'v': each counts 1." in caplog.text


def test_validation_and_prediction_do_not_read_weights():
    assert batch(values(), training=False).weights == {}
    table = Table.of(values())
    inputs = {"row": create_input("tabular", columns=["x"])}
    prepared = Preparation.fit(table, np.arange(ROWS), inputs, SPECS)
    new = Table.of(values().drop(columns=["w", "v"]))
    (found,) = prepared.loader(new, batch_size=1000)
    assert len(found) == ROWS
    assert Preparation.from_state(prepared.state_dict(), inputs).targets["kind"].spec.sample_weight == "w"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            -2.0,
            "t.csv, row 5, column 'w': the sample_weight of the task 'size' is -2, but must be a number of at least 0",
        ),
        (float("inf"), "t.csv, row 5, column 'w'"),
        (1e300, "t.csv, row 5, column 'w': .* float32"),
    ],
)
def test_a_weight_that_is_no_weight_is_named_with_its_row(value, message):
    table = values()
    table["w"] = table["w"].astype(float)
    table.loc[4, "w"] = value
    with pytest.raises(UserError, match=message):
        batch(table)


def test_weights_that_leave_nothing_to_learn_are_refused():
    table = values()
    table.loc[table["kind"].notna() | table["size"].notna() | table["width"].notna(), "w"] = 0
    with pytest.raises(UserError, match="Task 'size': the sample_weight of every labelled training row, .*'w', is 0"):
        batch(table)


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(UserError, match="t.csv has no column 'w', the sample_weight of the task 'size'"):
        batch(values().drop(columns="w"))


def test_a_task_is_not_its_own_weight():
    with pytest.raises(UserError, match="Task 'age': sample_weight is 'age', which the task predicts"):
        Regression("age", sample_weight="age")


def config(folder, **changes) -> Config:
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"x": draw.normal(size=90), "y": draw.normal(size=90), "w": draw.integers(0, 3, 90)})
    table["kind"] = np.where(table["x"] > 0, "yes", "no")
    table["part"] = np.where(np.arange(90) < 60, "train", "valid")
    table.to_csv(folder / "t.csv", index=False)
    return Config.from_mapping(
        {
            "data": {"train": str(folder / "t.csv"), "split": {"by": "column", "column": "part"}},
            "inputs": {"row": "tabular"},
            "tasks": {"y": {"type": "regression", "sample_weight": "w"}, "kind": "classification"},
            "model": {"encoders": {"row": {"type": "mlp", "width": 4, "depth": 1}}},
            "training": {"epochs": 2, "batch_size": 60, "tensorboard": False, **changes},
        }
    )


def test_the_column_is_no_input_and_stays_out_of_the_single_task_baseline(tmp_path):
    settings = config(tmp_path)
    assert make_job(settings).preparation.inputs["row"].columns == ("x",)
    assert make_job(settings.only_task("kind")).preparation.inputs["row"].columns == ("x",)


def gradients(settings: Config) -> list[torch.Tensor]:
    job = make_job(settings)
    (step,) = job.train
    job.module._balanced.backward(step.batches, job.model.shared_parameters(), None)
    return [parameter.grad for parameter in job.model.parameters()]


def test_accumulated_batches_weigh_as_one(tmp_path):
    whole = gradients(config(tmp_path))
    parts = gradients(config(tmp_path, batch_size=20, accumulate=3))
    torch.testing.assert_close(parts, whole)


def test_a_run_with_weights_is_evaluated_without_them(tmp_path):
    run = train(config(tmp_path), tmp_path / "run")
    plain = pd.read_csv(tmp_path / "t.csv").drop(columns=["w"])
    assert Run(run.root).evaluate(Table.of(plain))
    predicted = Run(run.root).predict(Table.of(plain))
    assert len(predicted) == 90
