"""A run from Python: train, look, evaluate, predict."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import polytask as pt


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pt.Run:
    folder = tmp_path_factory.mktemp("run")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 2))
    table = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "sign": np.where(x[:, 0] > 0, "plus", "minus"), "sum": x.sum(1)})
    table.loc[::5, "sum"] = np.nan
    table.to_csv(folder / "table.csv", index=False)
    config = {
        "data": {"train": str(folder / "table.csv")},
        "inputs": {"row": {"type": "tabular"}},
        "tasks": {"sign": {"type": "classification"}, "sum": {"type": "regression"}},
        "model": {"encoders": {"row": {"type": "mlp", "width": 32, "depth": 1}}},
        "training": {"epochs": 15, "batch_size": 16, "optimizer": {"type": "adamw", "lr": 0.01}},
    }
    return pt.train(config, folder / "out")


def test_metrics_have_one_row_an_epoch(run: pt.Run):
    metrics = run.metrics
    assert list(metrics.epoch) == list(range(1, 16))
    keys = {"sign/train/loss", "sign/valid/accuracy", "sum/train/weight", "sum/valid/mae", "valid/mean_gain", "lr"}
    assert keys <= set(metrics.columns)
    assert metrics["valid/mean_gain"].iloc[-1] > 0.8


def test_summary_says_what_came_out_and_by_what_it_was_chosen(run: pt.Run):
    summary = run.summary
    assert summary["status"] == "finished"
    assert summary["selection"] == "mean_gain"
    best = run.metrics.set_index("epoch").loc[summary["best_epoch"]]
    assert summary["best_value"] == pytest.approx(best["valid/mean_gain"])
    assert best["valid/mean_gain"] == run.metrics["valid/mean_gain"].max()
    assert summary["tasks"]["sum"]["valid"]["mae"] == pytest.approx(best["sum/valid/mae"])
    assert summary["rows"] == {"train": 240, "valid": 30, "test": 30}
    assert summary["parameters"]["shared"] < summary["parameters"]["all"]


def test_tensorboard_has_the_same_curves(run: pt.Run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder.tensorboard))
    events.Reload()
    curve = [event.value for event in events.Scalars("sum/valid/mae")]
    assert curve == pytest.approx(run.metrics["sum/valid/mae"].tolist(), rel=1e-5)


def test_evaluation_is_of_the_best_epoch_and_of_the_part_asked_for(run: pt.Run):
    valid = run.evaluate(part="valid")
    assert valid.scores["sum"]["mae"] == pytest.approx(run.summary["tasks"]["sum"]["valid"]["mae"], rel=1e-4)
    assert valid.mean_gain == pytest.approx(run.summary["best_value"], rel=1e-4)
    test = run.evaluate()
    assert (test.part, test.rows) == ("test", 30)
    assert test.gains["sign"] > 0.5
    assert all(math.isfinite(value) for value in test.gains.values())
    with pytest.raises(pt.UserError, match="no part 'tset'"):
        run.evaluate(part="tset")


def test_predictions_from_a_file_and_a_table_agree_and_are_in_the_users_units(run: pt.Run, tmp_path: Path):
    new = pd.DataFrame({"a": [2.0, -2.0, 0.5], "b": [1.0, 1.0, -3.0]})
    new.to_csv(tmp_path / "new.csv", index=False)
    from_file = run.predict(tmp_path / "new.csv")
    from_table = run.predict(pt.data.Table.of(new, source="new"))
    pd.testing.assert_frame_equal(from_file, from_table)
    assert list(from_file["sign"]) == ["plus", "minus", "plus"]
    assert from_file["sum"].to_numpy() == pytest.approx([3.0, -1.0, -2.5], abs=0.8)
    assert from_file[["sign_p_minus", "sign_p_plus"]].sum(axis=1).to_numpy() == pytest.approx(1.0)


def test_a_table_without_an_input_column_is_refused(run: pt.Run):
    with pytest.raises(pt.UserError, match="no column 'b'"):
        run.predict(pt.data.Table.of({"a": [1.0]}, source="new"))


def test_what_has_not_finished_says_so(run: pt.Run, tmp_path: Path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.yaml").write_text(run.folder.config.read_text())
    half = pt.Run(tmp_path / "half")
    with pytest.raises(pt.UserError, match="no metrics yet"):
        half.metrics  # noqa: B018
    with pytest.raises(pt.UserError, match="no model"):
        half.predict(pt.data.Table.of({"a": [1.0]}, source="new"))


def test_a_table_with_some_targets_is_scored_on_these_and_says_so(run: pt.Run, caplog):
    table = pt.data.Table.of({"a": [1.0, -1.0], "b": [0.0, 0.0], "sum": [1.0, -1.0]}, source="later")
    with caplog.at_level("INFO", "polytask"):
        evaluation = run.evaluate(table)
    assert set(evaluation.scores) == {"sum"}
    assert "later has no target for 'sign': not scored" in caplog.text
    with pytest.raises(pt.UserError, match="later has no target to score by. The tasks' targets: 'sign', 'sum'"):
        run.evaluate(pt.data.Table.of({"a": [1.0], "b": [0.0]}, source="later"))


def test_a_table_to_predict_for_need_not_have_the_targets_whose_types_are_set(run: pt.Run, tmp_path: Path):
    from polytask.training.open_table import open_later_table

    (tmp_path / "new.csv").write_text("a,b\n1.0,2.0\n")
    typed = run.config.data.model_copy(update={"columns": {"sign": "category", "a": "number"}})
    assert open_later_table(str(tmp_path / "new.csv"), typed).columns == ("a", "b")
