"""Tasks that need no labels, through the command line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from polytask.config import load_config
from polytask.training.train import resume, train

ROWS = 160
TRAINING = (
    "training: {epochs: 12, batch_size: 32, tensorboard: false, optimizer: {type: adam, lr: 5.0e-3}, "
    "lr_schedule: {type: constant}}\n"
)
CONFIGS = {
    "text": """\
inputs: {text: {type: text, column: text, vocabulary: 300, length: 16}}
tasks: {label: classification, hidden: {type: masked_tokens, weight: 0.5}}
model: {encoders: {text: {type: transformer, dim: 32, depth: 1, heads: 2}}}
""",
    "image": """\
inputs: {image: {type: image}}
tasks: {label: classification, turned: {type: rotation}}
model: {encoders: {image: {type: cnn, width: 8, depth: 2}}}
balancing: pcgrad
""",
    "table": """\
inputs: {row: {type: tabular, columns: [a, b, c, city]}}
tasks:
  label: classification
  whole: {type: reconstruction, corruption: swap, share: 0.2}
  pair: {type: contrastive, projection: 16, share: 0.3, temperature: 0.2}
model: {encoders: {row: {type: mlp, width: 32, depth: 2}}}
balancing: upgrad
""",
}
WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "dogs", "ran", "far", "away", "from", "home"]


@pytest.fixture
def things(tmp_path: Path) -> pd.DataFrame:
    """Texts of words in a fixed order, pictures with light at the top, numbers that follow from each other."""
    draw = np.random.default_rng(0)
    label = draw.choice(["x", "y"], ROWS)
    names = []
    for number in range(ROWS):
        pixels = draw.integers(0, 80, (12, 12, 3), dtype=np.uint8)
        pixels[:4] += 120
        pixels[..., 0 if label[number] == "x" else 2] //= 3
        names.append(f"{number}.png")
        Image.fromarray(pixels).save(tmp_path / names[-1])
    first = draw.integers(0, 8, ROWS)
    a = draw.normal(size=ROWS) + 2 * (label == "x")
    table = pd.DataFrame(
        {
            "text": [" ".join(WORDS[k : k + 6]) for k in first],
            "image": names,
            "a": a,
            "b": a + 0.1 * draw.normal(size=ROWS),
            "c": draw.normal(size=ROWS),
            "city": np.where(a > 1, "Ulm", "Jena"),
            "label": label,
        }
    )
    table.to_csv(tmp_path / "things.csv", index=False)
    return table


def configured(folder: Path, kind: str, rest: str = TRAINING) -> str:
    (folder / "config.yaml").write_text(f"data: {{train: things.csv}}\n{CONFIGS[kind]}{rest}")
    return "config.yaml"


@pytest.mark.parametrize(("kind", "tasks"), [("text", ["hidden"]), ("image", ["turned"]), ("table", ["whole", "pair"])])
def test_they_are_learned_scored_and_left_out_of_predictions(things, polytask, tmp_path, kind, tasks):
    code, _, err = polytask(
        "train", configured(tmp_path, kind), "-o", "run", f"training.selection={tasks[0]}/valid/loss"
    )
    assert code == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    found = []
    for _ in range(2):
        code, out, err = polytask("evaluate", "run", "--json", "--part", "valid")
        assert code == 0, err
        found.append(json.loads(out))
    assert found[0] == found[1]
    for task in tasks:
        assert summary["tasks"][task]["auxiliary"]
        assert found[0]["tasks"][task]["gain"] > 0.1
    assert found[0]["mean_gain"] == found[0]["tasks"]["label"]["gain"]
    things.drop(columns="label").to_csv(tmp_path / "new.csv", index=False)
    code, out, err = polytask("evaluate", "run", "--data", "new.csv", "--json")
    assert code == 0, err
    assert set(json.loads(out)["tasks"]) == set(tasks)
    code, _, err = polytask("predict", "run", "new.csv", "-o", "out.csv")
    assert code == 0, err
    assert list(pd.read_csv(tmp_path / "out.csv").columns) == ["row", "label", "label_p_x", "label_p_y"]


def test_what_it_costs_and_what_is_labelled_is_shown(things, polytask, tmp_path):
    code, out, err = polytask("train", configured(tmp_path, "table"), "--dry-run")
    assert code == 0, err
    assert "needs none: from 'row'" in out
    assert "Overlap: every training row is labelled for every task." in out
    assert "'label' in one pass" in out
    assert "1 separate network " in out


def test_it_is_compared_with_a_training_without_them(things, polytask, tmp_path):
    code, _, err = polytask(
        "train", configured(tmp_path, "table"), "-o", "run", "--check-auxiliary", "training.epochs=1"
    )
    assert code == 0, err
    check = json.loads((tmp_path / "run" / "auxiliary.json").read_text())
    assert list(check["tasks"]) == ["label"]


def test_a_network_can_learn_from_them_alone_and_be_a_start(things, polytask, tmp_path):
    config = configured(tmp_path, "table")
    text = (tmp_path / config).read_text().replace("  label: classification\n", "")
    (tmp_path / "alone.yaml").write_text(
        text.replace("{type: reconstruction,", "{type: reconstruction, auxiliary: false,")
    )
    code, _, err = polytask("train", "alone.yaml", "-o", "alone", "training.epochs=2")
    assert code == 0, err
    code, _, err = polytask("predict", "alone", "things.csv", "-o", "out.csv")
    assert code == 2
    assert "no task of the run predicts anything" in err
    code, _, err = polytask("train", config, "-o", "run", "training.epochs=1", "--adapt", "alone", "--task", "label")
    assert code == 0, err


def test_a_run_that_stopped_goes_on_to_the_same_numbers(things, train_until, tmp_path, monkeypatch):

    monkeypatch.chdir(tmp_path)
    short = TRAINING.replace("epochs: 12", "epochs: 3")
    settings = load_config(tmp_path / configured(tmp_path, "table", short))
    train(settings, tmp_path / "whole")
    train_until(settings, tmp_path / "stopped", 9)
    resume(tmp_path / "stopped")
    whole, stopped = (pd.read_csv(tmp_path / run / "metrics.csv") for run in ("whole", "stopped"))
    scores = [column for column in whole.columns if "/valid/" in column]
    assert scores
    pd.testing.assert_frame_equal(whole[scores], stopped[scores])


BAD = {
    "no such input": ("table", "whole: {type: reconstruction, input: rows", "Did you mean 'row'?"),
    "of another modality": ("table", "whole: {type: rotation}\n  more: {type: reconstruction", "is for image"),
    "share": ("text", "hidden: {type: masked_tokens, share: 1.5", "share is 1.5"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_said(things, polytask, tmp_path, case):
    kind, replaced, message = BAD[case]
    config = configured(tmp_path, kind)
    old = "whole: {type: reconstruction" if kind == "table" else "hidden: {type: masked_tokens"
    (tmp_path / config).write_text((tmp_path / config).read_text().replace(old, replaced))
    code, _, err = polytask("train", config, "--dry-run")
    assert code == 2
    assert message in err


def test_images_that_are_not_square_are_refused(things, polytask, tmp_path):
    code, _, err = polytask("train", configured(tmp_path, "image"), "--dry-run", "inputs.image.size=[12,10]")
    assert code == 2
    assert "12 x 10 pixels" in err
    assert "inputs.image.size: 10" in err


def test_rows_of_a_source_without_labels_can_be_learned_from(things, polytask, tmp_path):
    things[["image", "label"]].head(80).to_csv(tmp_path / "labelled.csv", index=False)
    things[["image"]].tail(80).to_csv(tmp_path / "bare.csv", index=False)
    things[["text"]].to_csv(tmp_path / "texts.csv", index=False)
    (tmp_path / "config.yaml").write_text(
        """\
data: {labelled: {train: labelled.csv}, bare: {train: bare.csv}, texts: {train: texts.csv}}
inputs:
  image: {type: image}
  text: {type: text, column: text, tokenizer: words, buckets: 100, length: 8}
tasks: {label: classification, turned: {type: rotation, sources: bare}, pair: contrastive}
model:
  encoders:
    image: {type: cnn, width: 4, depth: 1}
    text: {type: transformer, dim: 8, depth: 1, heads: 2}
  fusion: {type: attention, dim: 8, hidden: 4, drop: 0.2}
balancing: upgrad
training: {epochs: 1, batch_size: 16, tensorboard: false}
"""
    )
    code, out, err = polytask("train", "config.yaml", "-o", "run")
    assert code == 0, err
    assert "bare 64" in out and "labelled 64, bare 64" in out
    assert "128 training rows are labelled for no task: they are left out." in " ".join((out + err).split())
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    assert set(json.loads(out)["tasks"]) == {"label", "turned", "pair"}
