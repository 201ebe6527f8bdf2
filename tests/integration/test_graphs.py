"""Graphs from tables, on molecules of QM9 written down as nodes and edges: train, evaluate, predict."""

import json
from pathlib import Path

import pandas as pd
import pytest

from polytask.data.inputs.molecules import MoleculeReader
from polytask.data.splits import Split

pytestmark = pytest.mark.integration

pytest.importorskip("rdkit")

SMALL = "training: {epochs: 12, batch_size: 32, tensorboard: false, optimizer: {type: adamw, lr: 5.0e-3}}"
ENCODER = "model: {encoders: {molecule: {type: gin, dim: 16, depth: 2, pooling: sum, normalization: layer}}}"


@pytest.fixture
def molecules(data_root: Path):
    """Atoms (element, hydrogens) and bonds (ends, kind) of some molecules, and what is to be predicted."""
    table = pd.read_csv(data_root / "qm9_13k" / "qm9_val_split.csv.gz").head(240)
    reader = MoleculeReader(hydrogens=False)
    found = []
    for row in table.itertuples():
        atoms, bonds = reader.read(row.smiles)
        nodes = [{"element": f"e{atom[0]}", "hydrogens": int(atom[3] - 143)} for atom in atoms]
        edges = [(int(bond[0]), int(bond[1]), f"k{bond[2]}") for bond in bonds[::2]]
        in_ring = ["ring" if atom[7] > 168 else "chain" for atom in atoms]
        found.append({"nodes": nodes, "edges": edges, "alpha": row.alpha, "in_ring": in_ring})
    return found


def test_tables_of_nodes_and_edges(molecules, polytask, tmp_path: Path):
    pd.DataFrame(
        {"id": f"m{number}", "node": place, **node}
        for number, each in enumerate(molecules)
        for place, node in enumerate(each["nodes"])
    ).to_csv(tmp_path / "nodes.csv", index=False)
    pd.DataFrame(
        {"id": f"m{number}", "source": source, "target": target, "kind": kind}
        for number, each in enumerate(molecules)
        for source, target, kind in each["edges"]
    ).to_csv(tmp_path / "edges.csv", index=False)
    rows = pd.DataFrame({"id": [f"m{n}" for n in range(len(molecules))], "alpha": [m["alpha"] for m in molecules]})
    pd.concat([rows, pd.DataFrame({"id": ["m9999"], "alpha": [70.0]})]).to_csv(tmp_path / "rows.csv", index=False)
    config = tmp_path / "config.yaml"
    config.write_text(
        "data: {train: rows.csv}\n"
        "inputs: {molecule: {type: graph_table, nodes: nodes.csv, edges: edges.csv, key: id, on_error: skip}}\n"
        f"tasks: {{alpha: {{type: regression, metric: r2}}}}\n{ENCODER}\n{SMALL}\n"
    )
    code, _, err = polytask("train", config, "-o", "run")
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_rows"] == 1
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    assert json.loads(out)["tasks"]["alpha"]["scores"]["r2"] > 0.3
    code, _, err = polytask("train", config, "inputs.molecule.on_error=error", "-o", "other")
    assert code == 2
    assert "rows.csv, row 241 (line 242): " in err.replace("\n", " ")
    assert "has no nodes of the graph 'm9999'" in " ".join(err.split())


def test_labels_of_nodes_beside_labels_of_graphs(molecules, polytask, tmp_path: Path):
    records = [
        {**each, "edges": [{"source": a, "target": b, "kind": kind} for a, b, kind in each["edges"]]}
        for each in molecules
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = tmp_path / "config.yaml"
    config.write_text(
        "data: {train: rows.jsonl}\n"
        "inputs: {molecule: {type: graph_columns}}\n"
        "tasks:\n"
        "  alpha: {type: regression, metric: r2}\n"
        "  in_ring: {type: node_classification, metric: balanced_accuracy}\n"
        f"{ENCODER}\n{SMALL}\nbalancing: upgrad\n"
    )
    code, _, err = polytask("train", config, "-o", "run")
    assert code == 0, err
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    assert json.loads(out)["tasks"]["in_ring"]["scores"]["balanced_accuracy"] > 0.6
    for name in ("out.csv", "out.parquet"):
        code, _, err = polytask("predict", "run", "rows.jsonl", "-o", name)
        assert code == 0, err
    predicted, text = pd.read_parquet(tmp_path / "out.parquet"), pd.read_csv(tmp_path / "out.csv")
    assert [len(each) for each in predicted.in_ring] == [len(each["nodes"]) for each in molecules]
    assert text.in_ring[0].split() == list(predicted.in_ring[0])


def test_a_split_by_scaffold(data_root: Path, polytask, tmp_path: Path):
    table = pd.read_csv(data_root / "qm9_13k" / "qm9_val_split.csv.gz").head(200)
    table.to_csv(tmp_path / "rows.csv", index=False)
    config = tmp_path / "config.yaml"
    config.write_text(
        "data: {train: rows.csv, split: {by: scaffold, column: smiles, valid: 0.15, test: 0.15}}\n"
        "inputs: {molecule: {type: graph}}\n"
        f"tasks: {{alpha: {{type: regression, metric: r2}}}}\n{ENCODER}\n{SMALL}\n"
    )
    code, _, err = polytask("train", config, "training.epochs=1", "-o", "run")
    assert code == 0, err
    split = Split.load(tmp_path / "run" / "split.parquet")
    assert [len(split[part]) for part in ("train", "valid", "test")] == [140, 30, 30]
