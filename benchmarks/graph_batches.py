"""Batches of graphs out of memory: ours over torch_geometric's own batching of the same graphs.

    python benchmarks/graph_batches.py FOLDER_WITH_tox21.csv [--json FILE]

Two thousand molecules of Tox21 are encoded once. Then batches of shuffled rows are made from them: by `EncodedRows`, as
a training does it, with all else that a batch has (rows, masks); and by `Batch.from_data_list` of `Data` objects with
the same tensors, as torch_geometric's `DataLoader` does it. Both take turns on one thread, and medians of whole passes
are given. The aim is a ratio of at most 1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from interleave import interleaved

from polytask.data.encoded_rows import EncodedRows
from polytask.data.inputs import GraphInput
from polytask.data.readers import read_table
from polytask.data.request import Request

ROWS = 2000
SIZES = (32, 128, 512)
AIM = 1.0


def measure(folder: Path, rounds: int) -> list[dict[str, float]]:
    """Milliseconds a batch for each size of batches."""
    from torch_geometric.data import Batch, Data

    torch.set_num_threads(1)
    table = read_table(folder / "tox21.csv")
    source = GraphInput(on_error="skip")
    source.resolve(table, ())
    rows = EncodedRows(table, np.arange(ROWS), {"molecule": source}, {}, seed=0, cache_bytes=2**30)
    objects = []
    for position in range(len(rows)):
        graph = rows[Request(0, np.array([position]))].batch.inputs["molecule"]
        objects.append(Data(x=graph.x, edge_index=graph.edge_index, edge_attr=graph.edge_attr))
    found = []
    for size in SIZES:
        order = np.random.default_rng(0).permutation(len(rows))
        parts = [order[start : start + size] for start in range(0, len(rows) - size + 1, size)]

        def ours(parts: list[np.ndarray] = parts) -> None:
            for part in parts:
                rows[Request(0, part)]

        def theirs(parts: list[np.ndarray] = parts) -> None:
            for part in parts:
                Batch.from_data_list([objects[position] for position in part.tolist()])

        one = rows[Request(0, parts[0])].batch.inputs["molecule"]
        other = Batch.from_data_list([objects[position] for position in parts[0].tolist()])
        for name in ("x", "edge_index", "edge_attr", "batch"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        seconds = interleaved({"ours": ours, "theirs": theirs}, rounds)
        found.append(
            {
                "batch": size,
                "ms": round(1e3 * seconds["ours"] / len(parts), 3),
                "torch_geometric ms": round(1e3 * seconds["theirs"] / len(parts), 3),
                "ratio": round(seconds["ours"] / seconds["theirs"], 3),
            }
        )
    return found


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.folder, given.rounds)
    for row in found:
        print(row)
    if given.json:
        given.json.write_text(json.dumps({"aim": AIM, "rows": found}, indent=2))


if __name__ == "__main__":
    main()
