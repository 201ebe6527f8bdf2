"""The verbs that look and do not train, and how errors end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from polytask.cli import main

CONFIG = """\
data: {train: multidigits}
inputs: {image: {type: image, channels: 1}}
tasks: {left: {type: classification}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "digits.yaml"
    path.write_text(CONFIG)
    return path


def test_version(polytask):
    import polytask as pt

    assert polytask("--version") == (0, f"{pt.__version__}\n", "")


def test_methods_lists_level_cost_and_source(polytask):
    code, out, _ = polytask("methods")
    assert code == 0
    assert "uncertainty" in out and "Kendall" in out and "2018" in out
    listed = json.loads(polytask("methods", "--json")[1])
    assert listed["equal"]["level"] == "loss" and listed["equal"]["passes"] == "1"


def test_methods_describes_one_with_its_parameters(polytask):
    code, out, _ = polytask("methods", "uncertainty")
    assert code == 0
    assert "Uncertainty weighting" in out and "lr" in out and "number or null" in out
    assert json.loads(polytask("methods", "static", "--json")[1])["settings"][0]["name"] == "weights"
    code, _, err = polytask("methods", "eqal")
    assert code == 2 and "Did you mean 'equal'?" in err


def test_schema_is_json(polytask):
    code, out, _ = polytask("schema")
    assert code == 0
    assert {"data", "inputs", "tasks", "training"} <= set(json.loads(out)["properties"])


def test_validate_and_render(polytask, config: Path):
    assert polytask("validate", config)[0] == 0
    code, out, _ = polytask("render", config, "training.epochs=7")
    assert code == 0
    assert "epochs: 7" in out and "share_until: null" in out
    code, _, err = polytask("validate", config, "training.epochs=none")
    assert code == 2 and "training.epochs" in err


def test_dry_run_shows_the_data_and_writes_nothing(polytask, config: Path):
    code, out, _ = polytask("train", config, "--dry-run")
    assert code == 0
    assert "12,000" in out and "Dry run" in out and "image" in out
    assert [path.name for path in config.parent.iterdir()] == ["digits.yaml"]


def test_init_needs_targets_and_never_overwrites(polytask, config: Path):
    (config.parent / "t.csv").write_text("a,b\n" + "".join(f"{i * 37 % 100},{i % 2}\n" for i in range(60)))
    assert polytask("init", "t.csv", "--targets", " ")[0] == 2
    code, _, err = polytask("init", "t.csv", "--targets", "b", "-o", config)
    assert code == 2 and "never overwritten" in err
    assert config.read_text() == CONFIG
    code, out, _ = polytask("init", "t.csv", "--targets", "b")
    assert code == 0 and "type: classification" in out


def test_an_unknown_verb_or_option_is_exit_code_2(polytask):
    assert polytask("trian")[0] == 2
    assert polytask("train", "--no-such")[0] == 2


def test_the_unexpected_is_one_line_and_exit_code_1_with_a_traceback_on_demand(polytask, config, monkeypatch):
    import polytask.config as configuration

    def fails(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(configuration, "load_config", fails)
    code, _, err = polytask("validate", config)
    assert code == 1
    assert err == "polytask: unexpected RuntimeError: boom (run again with --debug for the traceback)\n"
    with pytest.raises(RuntimeError):
        main(["validate", str(config), "--debug"])


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (("config.yaml", "checkpoints/last.ckpt"), "Stopped. Go on with: polytask train --resume runs/digits"),
        (("config.yaml",), "Stopped before the first checkpoint. Go on with: polytask train --resume runs/digits"),
        ((), "Stopped before anything was written"),
    ],
)
def test_an_interruption_says_how_to_go_on(polytask, config, monkeypatch, there, said):
    import polytask.training.train as training

    def stopped(_: object, root: Path, **__: object) -> None:
        for name in there:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stopped)
    code, _, err = polytask("train", config)
    assert code == 2 and said in err


def test_a_missing_extra_is_named_with_the_command_that_installs_it(config: Path):
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from polytask.cli import main\n"
        "main(['train', 'digits.yaml', 'model.encoders.image={type: timm, name: resnet18}'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=config.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "pip install 'polytask[vision]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_module_entry_point():
    done = subprocess.run([sys.executable, "-m", "polytask", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
