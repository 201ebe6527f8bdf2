"""A new domain of FDU-MTL from 50 labelled reviews: from scratch, and on a run on the other 15 domains.

That run is trained once, without a review of the new domain. Each seed draws other 50 reviews of the new domain's
training part, and is the seed of the trainings on them. All of these have the same recipe and end after the same number
of epochs, so that no further reviews choose anything. The figures are accuracies on the domain's own test part.

    python examples/fdu_mtl/prepare.py PATH/TO/fdu_mtl TABLES
    python benchmarks/adapt_fdu.py TABLES [--task books] [--seeds 0 1 2 3 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import polytask as pt
from polytask.config import Config
from polytask.training.adapt import adapted

RESULTS = Path(__file__).parent / "results" / "adapt_fdu.json"
REVIEWS = 50

INPUT: Mapping[str, Any] = {"type": "text", "column": "text", "tokenizer": "words", "ngrams": 1, "length": 400}
MODEL: Mapping[str, Any] = {"encoders": {"text": {"type": "bag", "dim": 32}}}
COMMON: Mapping[str, Any] = {"tensorboard": False, "optimizer": {"type": "adam", "lr": 5.0e-3}}

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "joint": {"type": "joint"},
    "reptile": {"type": "meta", "inner_steps": 5, "inner_lr": 1.0, "order": "round_robin"},
}
"""The schedules of the run on the other domains."""

WAYS: Mapping[str, tuple[str | None, Mapping[str, Any]]] = {
    "from scratch": (None, {}),
    "adapted": ("joint", {}),
    "adapted, encoder frozen": ("joint", {"transfer": {"freeze": True}}),
    "adapted from reptile": ("reptile", {}),
}
"""Which run each way starts from, and what else is set."""


def first_run(tables: Path, task: str, schedule: Mapping[str, Any], folder: Path) -> Path:
    """Train on all domains but one; gives the run folder."""
    table = pd.read_csv(tables / "train.csv")
    others = sorted(set(table["domain"]) - {task})
    rows = folder / "others.csv"
    table.loc[table["domain"] != task, ["text", "domain", *others]].to_csv(rows, index=False)
    # A step of meta-learning takes several batches, so epochs have fewer of them.
    steps = schedule.get("inner_steps", 1)
    config = {
        "data": {"train": str(rows), "split": {"by": "stratified", "column": "domain", "valid": 0.1, "test": 0.0}},
        "inputs": {"text": {**INPUT, "min_count": 4}},
        "tasks": {name: {"type": "classification"} for name in others},
        "model": MODEL,
        "schedule": schedule,
        "training": {**COMMON, "epochs": 4 * steps, "batch_size": 64},
    }
    return pt.train(config, folder / str(schedule["type"])).folder.root


def few_shot(tables: Path, task: str, seed: int, folder: Path) -> Config:
    """The configuration that learns the new domain from scratch."""
    rows, test = folder / f"few {seed}.csv", folder / "test.csv"
    train = pd.read_csv(tables / "train.csv").query("domain == @task")
    train.sample(REVIEWS, random_state=seed)[["text", task]].to_csv(rows, index=False)
    pd.read_csv(tables / "test.csv").query("domain == @task")[["text", task]].to_csv(test, index=False)
    return Config.from_mapping(
        {
            "data": {"train": str(rows), "test": str(test), "split": {"valid": 0.0, "test": 0.0}},
            "inputs": {"text": {**INPUT, "min_count": 1}},
            "tasks": {task: {"type": "classification"}},
            "model": MODEL,
            "training": {**COMMON, "epochs": 20, "batch_size": 10, "seed": seed},
        }
    )


def measure(tables: Path, task: str, seeds: list[int], folder: Path) -> dict[str, list[float]]:
    """Test accuracies by way, one for each seed."""
    runs = {name: first_run(tables, task, schedule, folder) for name, schedule in SCHEDULES.items()}
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in seeds:
        for way, (origin, settings) in WAYS.items():
            config = few_shot(tables, task, seed, folder)
            if origin is not None:
                config = adapted(config, runs[origin], task)
            plain = config.to_mapping()
            plain["training"] |= settings
            run = pt.train(plain, folder / f"{way} {seed}")
            found[way].append(run.evaluate().scores[task]["accuracy"])
            print(f"seed {seed}, {way}: {found[way][-1]:.3f}", flush=True)
    return found


def main() -> None:
    """Measure, print and write."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("tables", type=Path)
    words.add_argument("--task", default="books")
    words.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    words.add_argument("--json", type=Path, default=RESULTS)
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.tables, given.task, given.seeds, Path(folder))
    print(f"\n{given.task}, {REVIEWS} reviews, {len(given.seeds)} seeds")
    for way, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"| {way} | {statistics.fmean(values):.3f} ± {spread:.3f} |")
    record = {"task": given.task, "reviews": REVIEWS, "seeds": given.seeds, "accuracy": found}
    given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
