from pathlib import Path

import pytest

from polytask.errors import UserError
from polytask.training.run_folder import RunFolder


def test_a_taken_folder_is_refused_with_the_ways_out_that_there_are(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="never overwritten.*--output") as refusal:
        RunFolder.create(tmp_path)
    assert "--resume" not in str(refusal.value), "it is not a run"
    run = RunFolder.create(tmp_path / "run")
    run.config.write_text("")
    with pytest.raises(UserError, match="--resume.*--output"):
        RunFolder.create(run.root)
    run.write_summary({"status": "finished"})
    with pytest.raises(UserError) as refusal:
        RunFolder.create(run.root)
    assert "--resume" not in str(refusal.value), "it has finished"


def test_an_empty_folder_is_fine(tmp_path: Path):
    (tmp_path / "run").mkdir()
    assert RunFolder.create(tmp_path / "run").root == tmp_path / "run"


def test_opening_what_is_not_there_suggests_the_nearest(tmp_path: Path):
    (tmp_path / "digits").mkdir()
    with pytest.raises(UserError, match=r"no run .*digit'.* Did you mean 'digits'\?"):
        RunFolder.open(tmp_path / "digit")
    with pytest.raises(UserError, match="not a run of polytask"):
        RunFolder.open(tmp_path / "digits")


def test_history_has_one_column_a_key_even_when_keys_come_late(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run")
    folder.write_history([{"epoch": 1, "a/train/loss": 0.5}, {"epoch": 2, "a/train/loss": 0.25, "b/train/loss": 3.0}])
    assert folder.metrics.read_text().splitlines() == ["epoch,a/train/loss,b/train/loss", "1,0.5,", "2,0.25,3.0"]


def test_summary_round_trip_and_absence(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run")
    assert folder.read_summary() == {}
    folder.write_summary({"status": "running"})
    assert folder.read_summary() == {"status": "running"}
