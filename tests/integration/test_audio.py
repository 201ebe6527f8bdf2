"""Recordings through the command line: the example on real ones, test-sized, and bad ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

soundfile = pytest.importorskip("soundfile")

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[2] / "examples" / "spoken_digits"


@pytest.fixture
def digits(data_root, tmp_path):
    """The example with a third of its recordings."""
    command = [sys.executable, str(EXAMPLE / "prepare.py"), str(data_root / "fsdd"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=120)
    table = pd.read_csv(tmp_path / "recordings.csv")
    number = table.audio.str.extract(r"_(\d+)\.wav")[0].astype(int)
    table[(number < 20) & (number % 5 > 0)].to_csv(tmp_path / "recordings.csv", index=False)
    shutil.copy(EXAMPLE / "config.yaml", tmp_path / "config.yaml")
    return table


SMALL = (
    *("training.epochs=5", "training.batch_size=32", "training.optimizer.lr=0.005", "training.tensorboard=false"),
    *("model.encoders.audio.width=8", "model.encoders.audio.mask_bands=0", "model.encoders.audio.mask_time=0"),
)


def test_digits_and_speakers_are_learned_and_told_in_a_new_process(digits, polytask, process, tmp_path):
    code, out, err = polytask("train", "config.yaml", *SMALL, "-o", "run")
    assert code == 0, err
    assert "audio (1): audio" in out + err
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    tasks = json.loads(out)["tasks"]
    assert tasks["speaker"]["scores"]["accuracy"] > 0.85
    assert tasks["digit"]["scores"]["accuracy"] > 0.4

    new = tmp_path / "elsewhere"
    new.mkdir()
    for number in range(6):
        samples, rate = soundfile.read(tmp_path / "recordings" / f"{number}_george_0.wav")
        soundfile.write(new / f"{number}.flac", samples, rate)
    soundfile.write(new / "empty.wav", samples[:0], rate)
    (tmp_path / "recordings.csv").unlink()
    shutil.rmtree(tmp_path / "recordings")
    pd.DataFrame({"audio": [f"{number}.flac" for number in range(6)]}).to_csv(new / "new.csv", index=False)
    done = process("predict", "run", "elsewhere/new.csv", "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    predicted = pd.read_csv(tmp_path / "out.csv")
    assert (predicted.speaker == "george").sum() >= 4

    pd.DataFrame({"audio": ["0.flac", "empty.wav"]}).to_csv(new / "empty.csv", index=False)
    done = process("predict", "run", "elsewhere/empty.csv", "-o", "empty.csv")
    assert done.returncode == 2
    assert "elsewhere/empty.csv, row 2" in " ".join(done.stderr.split())
    assert "the recording 'empty.wav' has no samples" in " ".join(done.stderr.split())


def test_broken_recordings_are_refused_or_left_out(digits, polytask, tmp_path):
    table = pd.read_csv(tmp_path / "recordings.csv").iloc[::4]
    table.to_csv(tmp_path / "recordings.csv", index=False)
    training = table[table.part == "train"].audio
    first, later = training.iloc[0], training.iloc[9]
    (tmp_path / first).write_bytes(b"no sound")
    code, _, err = polytask("train", "config.yaml", *SMALL, "training.epochs=1")
    assert code == 2
    assert f"the recording '{first}' cannot be read: it is no recording of a known format" in " ".join(err.split())

    words = ("training.epochs=1", "inputs.audio.on_error=skip")
    code, _, err = polytask("train", "config.yaml", *SMALL, *words, "-o", "a")
    assert code == 0, err
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["skipped_rows"] == 1

    samples, _ = soundfile.read(tmp_path / later)
    soundfile.write(tmp_path / later, samples, 11025)
    code, _, err = polytask("train", "config.yaml", *SMALL, *words, "-o", "b")
    assert code == 2
    said = " ".join(err.split())
    assert f"the recording '{later}' has 11,025 samples a second" in said
    assert "Set sample_rate: 8000" in said
    code, _, err = polytask("train", "config.yaml", *SMALL, *words, "inputs.audio.sample_rate=8000", "-o", "b")
    assert code == 0, err


def test_init_proposes_a_configuration_that_trains(digits, polytask, tmp_path):
    table = pd.read_csv(tmp_path / "recordings.csv").iloc[::6]
    table.to_csv(tmp_path / "recordings.csv", index=False)
    code, _, err = polytask("init", "recordings.csv", "--targets", "digit,speaker", "-o", "mine.yaml")
    assert code == 0, err
    assert "type: audio_cnn" in (tmp_path / "mine.yaml").read_text()
    code, _, err = polytask("train", "mine.yaml", "training.epochs=1", "training.tensorboard=false")
    assert code == 0, err
