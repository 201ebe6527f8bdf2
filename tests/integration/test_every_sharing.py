"""Every sharing scheme, by its name in a configuration: trained, resumed from its files, asked to predict."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from polytask import sharing

FIRST, SECOND, THIRD = TASKS = ("price", "sold", "kind")
WORDS = {"good": 1, "fine": 1, "great": 2, "bad": -1, "poor": -1, "awful": -2, "the": 0, "room": 0, "of": 0, "day": 0}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(240, 3))
    texts = [list(draw.choice(list(WORDS), size=12)) for _ in range(240)]
    tone = np.array([sum(WORDS[word] for word in text) for text in texts])
    rows = pd.DataFrame(x, columns=["a", "b", "c"])
    rows["text"] = [" ".join(text) for text in texts]
    carbons, oxygens, rings = (draw.integers(0, top, 240) for top in (6, 4, 3))
    parts = zip(carbons.tolist(), oxygens.tolist(), rings.tolist(), strict=True)
    rows["smiles"] = [f"C{'C' * c}{'C(O)' * o}N{'C1CC1' * (r > 0)}" for c, o, r in parts]
    chemistry = oxygens - 0.5 * (rings > 0)
    signals = {"row": x @ [1, 2, -1], "text": tone / tone.std(), "molecule": chemistry / chemistry.std() - 1}
    for modality, signal in signals.items():
        rows[f"{modality} {FIRST}"] = signal + 0.1 * draw.normal(size=240)
        rows[f"{modality} {SECOND}"] = np.where(signal > 0, "yes", "no")
        rows[f"{modality} {THIRD}"] = np.array(["x", "y", "z"])[np.digitize(signal, [-0.7, 0.7])]
        rows.loc[draw.random(240) < 0.3, f"{modality} {FIRST}"] = np.nan
        rows.loc[draw.random(240) < 0.3, f"{modality} {SECOND}"] = None
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    rows.to_csv(path, index=False)
    return path


# Encoders with stages that every scheme can work on: normalised, and alike one after the other.
INPUTS = {
    "row": ({"type": "tabular", "columns": ["a", "b", "c"]}, {"type": "tabular_resnet", "width": 32, "depth": 2}),
    "text": (
        {"type": "text", "column": "text", "tokenizer": "words", "buckets": 500},
        {"type": "transformer", "dim": 16, "heads": 2, "depth": 2},
    ),
    "molecule": ({"type": "graph", "column": "smiles"}, {"type": "gcn", "dim": 16, "depth": 2, "dropout": 0.0}),
}


def parameters_of(name, tasks):
    """What a scheme cannot do without on these tasks."""
    if name == "branching":
        return {"tree": {-1: [list(tasks[:-1]), [tasks[-1]]]}}
    if name == "covariance" and len(tasks) > 2:  # heads of three shapes have nothing to compare
        return {"share_until": 1, "relate": "stages"}
    return {}


@pytest.mark.parametrize("modality", INPUTS)
@pytest.mark.parametrize("name", sharing.names())
def test_it_trains_and_predicts_on_tables_texts_and_graphs(polytask, tmp_path, table, name, modality):
    reader, encoder = INPUTS[modality]
    columns = {task: f"{modality} {task}" for task in TASKS}
    config = {
        "name": "run",
        "data": {"train": str(table)},
        "inputs": {modality: reader},
        "tasks": {
            FIRST: {"type": "regression", "target": columns[FIRST]},
            SECOND: {"type": "classification", "target": columns[SECOND]},
            THIRD: {"type": "classification", "target": columns[THIRD]},
        },
        "model": {"encoders": {modality: encoder}, "sharing": {"type": name, **parameters_of(name, TASKS)}},
        "training": {
            "epochs": 8 if name == "ltb" else 4,  # it chooses among whole networks first
            "batch_size": 32,
            "optimizer": {"type": "adamw", "lr": 0.01},
            "tensorboard": False,
        },
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    code, _, err = polytask("train", str(tmp_path / "c.yaml"), "--quiet")
    assert code == 0, err
    run = tmp_path / "runs" / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["best_value"] > 0.1
    code, _, err = polytask("predict", run, table, "--output", tmp_path / "out.csv")
    assert code == 0, err
    predicted, given = pd.read_csv(tmp_path / "out.csv"), pd.read_csv(table)
    known = given[columns[SECOND]].notna()
    assert (predicted[SECOND][known] == given[columns[SECOND]][known]).mean() > 0.6


@pytest.mark.parametrize("name", sharing.names())
def test_it_trains_on_two_digits_in_an_image(polytask, tmp_path, name):
    encoder, reader = {"type": "cnn", "width": 8}, {"type": "image", "column": "image", "channels": 1}
    if name == "adashare":  # it needs stages that can be skipped
        encoder, reader = {"type": "timm", "name": "test_vit"}, {**reader, "size": 32}
    config = {
        "name": "run",
        "data": {"train": "multidigits"},
        "inputs": {"image": reader},
        "tasks": {"left": {"type": "classification"}, "right": {"type": "classification"}},
        "model": {
            "encoders": {"image": encoder},
            "sharing": {"type": name, **parameters_of(name, ("left", "right"))},
        },
        "training": {
            "epochs": 1,
            "batch_size": 128,
            "optimizer": {"type": "adamw", "lr": 0.01},
            "tensorboard": False,
        },
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    code, _, err = polytask("train", str(tmp_path / "c.yaml"), "--quiet")
    assert code == 0, err
    summary = json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())
    assert all(task["valid"]["accuracy"] > 0.2 for task in summary["tasks"].values()), summary["tasks"]
