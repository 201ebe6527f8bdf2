"""Every balancer, by its name in a configuration, on a table with missing labels."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from polytask import balancing

PARAMETERS = {
    "static": {"weights": {"price": 1.0, "sold": 2.0, "kind": 0.5}},
    "pivrg": {"references": {"price": 1.0, "sold": 0.8, "kind": 0.8}},
    "gradient_cosine": {"main": "price"},
    "ol_aux": {"main": "price"},
    "meta_balance": {"main": "price"},
    "annealed": {"main": "price", "steps": 10},
    "auto_lambda": {"main": "price"},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(240, 3))
    rows = pd.DataFrame(x, columns=["a", "b", "c"])
    rows["price"] = x @ [1, 2, -1] + 0.1 * draw.normal(size=240)
    rows["sold"] = np.where(x @ [1, 1, 0] > 0, "yes", "no")
    rows["kind"] = np.array(["x", "y", "z"])[np.argmax(x, axis=1)]
    rows.loc[draw.random(240) < 0.4, "price"] = np.nan
    rows.loc[draw.random(240) < 0.4, "sold"] = None
    path = tmp_path_factory.mktemp("data") / "houses.csv"
    rows.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", balancing.names())
def test_it_trains_from_a_configuration(polytask, tmp_path, table, name):
    config = {
        "name": "run",
        "data": {"train": str(table)},
        "inputs": {"row": {"type": "tabular", "columns": ["a", "b", "c"]}},
        "tasks": {
            "price": {"type": "regression", "target": "price"},
            "sold": {"type": "classification", "target": "sold"},
            "kind": {"type": "classification", "target": "kind"},
        },
        "model": {"encoders": {"row": {"type": "mlp", "width": 32, "depth": 2}}},
        "balancing": {"type": name, **PARAMETERS.get(name, {})},
        "training": {"epochs": 6, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    code, _, err = polytask("train", str(tmp_path / "c.yaml"), "--quiet")
    assert code == 0, err
    summary = json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["best_value"] > 0.1
