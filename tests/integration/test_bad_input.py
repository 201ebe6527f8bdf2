"""Each wrong input: one clear message, exit code 2, nothing written or lost."""

import os
import resource
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.integration


def refused(result, *parts: str) -> str:
    code, _, err = result
    assert code == 2, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err, err
    return err


@pytest.fixture
def table(config: Path):
    """Change the table of the configuration."""
    path = config.with_suffix(".csv")

    def change(function) -> None:
        function(pd.read_csv(path)).to_csv(path, index=False)

    yield change
    assert not (config.parent / "runs").exists(), "nothing may be written"


def test_missing_table(config: Path, polytask, table):
    config.with_suffix(".csv").rename(config.with_name("peeple.csv"))
    refused(polytask("train", config), "people.csv", "peeple.csv")


def test_missing_configuration(polytask, config: Path):
    refused(polytask("train", "peopl.yaml"), "peopl.yaml", "people.yaml")


def test_empty_table(config: Path, polytask, table):
    table(lambda frame: frame.iloc[:0])
    refused(polytask("train", config), "people.csv", "no rows")


def test_target_that_is_not_a_column(config: Path, polytask, table):
    refused(polytask("train", config, "tasks.weight.target=wieght"), "wieght", "Did you mean 'weight'")


def test_target_with_one_class(config: Path, polytask, table):
    table(lambda frame: frame.assign(tall="yes"))
    refused(polytask("train", config), "tall", "one class", "yes")


def test_task_without_any_label(config: Path, polytask, table):
    table(lambda frame: frame.assign(weight=None))
    refused(polytask("train", config), "weight")


def test_text_in_a_numeric_target(config: Path, polytask, table):
    table(lambda frame: frame.assign(weight=frame.weight.astype(object).where(frame.index != 16, "heavy")))
    refused(polytask("train", config), "people.csv", "row 17", "heavy", "weight")


def test_unknown_key_and_value(config: Path, polytask, table):
    refused(polytask("train", config, "training.epoch=3"), "epoch", "Did you mean 'epochs'")
    text = config.read_text()
    config.write_text(text.replace("type: mlp", "type: mpl"))
    refused(polytask("train", config), "people.yaml", "line 9", "mpl", "mlp")
    config.write_text(text + "trainings: {}\n")
    refused(polytask("train", config), "people.yaml", "line 11", "trainings", "training")


def test_taken_output_folder(config: Path, polytask, table):
    (config.parent / "taken").mkdir()
    (config.parent / "taken" / "note.txt").write_text("mine")
    refused(polytask("train", config, "-o", "taken"), "taken", "never overwritten", "--output")
    assert [path.name for path in (config.parent / "taken").iterdir()] == ["note.txt"]


def test_unreadable_image_is_named_or_skipped_and_counted(tmp_path: Path, polytask):
    from PIL import Image

    rows = []
    for index in range(60):
        name = f"{index}.png"
        Image.new("RGB", (16, 16), (200, 0, 0) if index % 2 else (0, 0, 200)).save(tmp_path / name)
        rows.append({"image": name, "colour": "red" if index % 2 else "blue"})
    (tmp_path / "31.png").write_bytes(b"not an image")
    pd.DataFrame(rows).to_csv(tmp_path / "images.csv", index=False)
    config = tmp_path / "images.yaml"
    config.write_text(
        "data: {train: images.csv}\ninputs: {image: {type: image, size: 16}}\ntasks: {colour: {type: classification}}\n"
        "model: {encoders: {image: {type: cnn, width: 4}}}\n"
        "training: {epochs: 1, tensorboard: false}\n"
    )
    refused(polytask("train", config), "31.png", "row 32", "on_error")
    assert not (tmp_path / "runs").exists()
    code, out, err = polytask("train", config, "inputs.image.on_error=skip", "-o", "run")
    assert code == 0, err
    assert "31.png" in out or "31.png" in err


def test_loss_that_stops_being_a_number_keeps_the_last_good_checkpoint(config: Path, polytask, tmp_path: Path):
    (tmp_path / "broken_balancer.py").write_text(
        "import torch\n"
        "from polytask.balancing import Equal\n"
        "class Broken(Equal):\n"
        '    """Ruins the network at a batch.\n\n    Args:\n        at: The batch.\n    """\n'
        "    def __init__(self, at: int = 15):\n"
        "        super().__init__()\n"
        "        self.at, self.count = at, 0\n"
        "    def backward(self, losses, shared=None, **options):\n"
        "        self.count += 1\n"
        "        super().backward(losses, shared, **options)\n"
        "        if self.count == self.at:\n"
        "            for parameter in shared:\n"
        "                parameter.data.fill_(float('nan'))\n"
    )
    sys.modules.pop("broken_balancer", None)
    result = polytask("train", config, "balancing={type: broken_balancer.Broken, at: 15}", "-o", "run")
    refused(result, "task 'tall'", "nan", "batch 16", "training.optimizer.lr")
    assert len(pd.read_csv(tmp_path / "run" / "metrics.csv")) == 1
    import torch

    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())
    assert "became nan" in (tmp_path / "run" / "log.txt").read_text()


def test_full_disk_while_training(config: Path, process, tmp_path: Path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = process("train", config, "model.encoders.row.width=256", "-o", "run", preexec_fn=limit, env=unmeasured)
    refused((done.returncode, done.stdout, done.stderr), "disk is full", "--resume")
    assert not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


def test_predictions_file_that_exists_or_has_no_format(config: Path, polytask, tmp_path: Path):
    (tmp_path / "out.csv").write_text("mine")
    refused(polytask("predict", "run", "people.csv", "-o", "out.csv"), "out.csv", "never overwritten")
    refused(polytask("predict", "run", "people.csv", "-o", "out.xls"), ".parquet or .csv")
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_what_is_not_a_run(config: Path, polytask):
    refused(polytask("evaluate", "nowhere"), "no run 'nowhere'")
    refused(polytask("evaluate", "."), "not a run of polytask")


def test_contradictory_words(config: Path, polytask):
    refused(polytask("train"), "--resume RUN")
    refused(polytask("train", "--resume", "x", "-o", "y"), "takes no overrides")


def test_unseen_class_in_later_data(config: Path, polytask, tmp_path: Path):
    assert polytask("train", config, "training.epochs=1", "-o", "run", "-q")[0] == 0
    later = pd.read_csv(tmp_path / "people.csv").head(5).assign(tall="perhaps")
    later.to_csv(tmp_path / "later.csv", index=False)
    refused(polytask("evaluate", "run", "--data", "later.csv"), "perhaps", "later.csv", "row 1", "'no'", "'yes'")
