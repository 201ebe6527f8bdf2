"""FDU-MTL: seven sharing schemes over two text encoders, and the linear classifiers that published networks lose to.

16 domains of reviews, each a task: is it positive? The table has the mean over the domains of the error on the data
set's own test part, with its standard deviation over seeds. The recipe of each encoder was chosen once, for hard
sharing, on validation data cut from the training part, and is the same for all schemes: epochs, rows in a step,
optimiser, learning rates. Validation data also choose the epoch. The n-gram bag is `examples/fdu_mtl/config.yaml`.

    python examples/fdu_mtl/prepare.py PATH/TO/fdu_mtl TABLES
    python benchmarks/fdu_mtl.py TABLES [--encoders bag cnn] [--schemes hard man] [--seeds 0 1 2] [--json FILE]

Each figure is written as soon as it is there; what is in the file already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

import polytask as pt
from polytask.config import Config

HERE = Path(__file__).parent
RECIPE = HERE.parent / "examples" / "fdu_mtl" / "config.yaml"
RESULTS = HERE / "results" / "fdu_mtl.json"

CNN: Mapping[str, Any] = {
    "input": {"type": "text", "column": "text", "tokenizer": "words", "length": 200, "min_count": 5},
    "encoder": {"type": "text_cnn", "dim": 64, "filters": 32, "widths": [3, 4, 5], "dropout": 0.5},
    "training": {
        "epochs": 5,
        "batch_size": 128,
        "optimizer": {"type": "adam", "lr": 5.0e-3},
        "lr_schedule": {"type": "cosine"},
        "gradient_clip": None,
    },
}
"""The convolutional network's recipe."""


@dataclass(frozen=True)
class Scheme:
    """A row of the table.

    Attributes:
        sharing: The scheme and its parameters; None: a network for each task, trained alone.
        sharing_of: Parameters for one encoder alone.
        input_of: Changes of an encoder's input.
        note: What is not as for the other schemes.
    """

    sharing: Mapping[str, Any] | None
    sharing_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    input_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    note: Mapping[str, str] = field(default_factory=dict)


RARER = "n-grams of 10 texts or more: there is a table for each task"
SCHEMES: Mapping[str, Scheme] = {
    "hard": Scheme({"type": "hard"}),
    "mmoe": Scheme({"type": "mmoe"}),
    "adapters": Scheme({"type": "adapters", "kind": "houlsby", "layers": [-1]}),
    "single-task": Scheme(None, note=dict.fromkeys(("bag", "cnn"), "8 rows a step: a domain's share of 128")),
    "soft": Scheme({"type": "soft"}, input_of={"bag": {"min_count": 10}}, note={"bag": RARER}),
    "adversarial": Scheme(
        {"type": "adversarial"},
        sharing_of={"cnn": {"common_until": "embed"}},
        input_of={"bag": {"min_count": 10}},
        note={"bag": RARER, "cnn": "one table of embeddings"},
    ),
    "man": Scheme(
        {"type": "man"},
        sharing_of={"cnn": {"common_until": "embed"}},
        input_of={"bag": {"min_count": 10}},
        note={"bag": RARER, "cnn": "one table of embeddings"},
    ),
}


def configuration(encoder: str, scheme: Scheme, tables: Path, seed: int) -> dict[str, Any]:
    """What one training is, but for the tasks of single-task networks."""
    config: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    for part in ("train", "test"):
        config["data"][part] = str(tables.resolve() / config["data"][part])
    config["data"]["split"]["seed"] = seed
    if encoder == "cnn":
        config["inputs"]["text"] = dict(CNN["input"])
        config["model"]["encoders"]["text"] = dict(CNN["encoder"])
        config["training"] = dict(CNN["training"])
    config["inputs"]["text"].update(scheme.input_of.get(encoder, {}))
    if scheme.sharing is not None:
        config["model"]["sharing"] = {**scheme.sharing, **scheme.sharing_of.get(encoder, {})}
    config["training"] |= {"seed": seed, "accelerator": "cpu", "tensorboard": False}
    return config


def trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train, and score on test data: each domain's error in percent, seconds and parameters."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = pt.train(Config.from_mapping(dict(config)), Path(folder) / "run")
        seconds = time.perf_counter() - started
        scores = run.evaluate(part="test").scores
        tasks = run.summary["tasks"]
        return {
            "error": {task: 100 * (1 - scores[task]["accuracy"]) for task in scores},
            "valid_error": {task: 100 * (1 - found["valid"]["accuracy"]) for task, found in tasks.items()},
            "seconds": seconds,
            "parameters": run.summary["parameters"]["all"],
        }


def together(encoder: str, scheme: Scheme, tables: Path, seed: int) -> dict[str, Any]:
    """One network for all tasks."""
    return trained(configuration(encoder, scheme, tables, seed))


def alone(encoder: str, scheme: Scheme, tables: Path, seed: int) -> dict[str, Any]:
    """A network for each task, which sees its own domain's reviews alone."""
    found: dict[str, Any] = {"error": {}, "valid_error": {}, "seconds": 0.0, "parameters": 0}
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(encoder, scheme, tables, seed)
        domains = list(config["tasks"])
        for part in ("train", "test"):
            table = pd.read_csv(config["data"][part], keep_default_na=False)
            for domain in domains:
                own = table.loc[table["domain"] == domain, ["text", "domain", domain]]
                own.to_csv(Path(folder) / f"{domain}-{part}.csv", index=False)
        # In a batch of all domains, each has so many rows on average: as many steps, and as many of its rows in each.
        config["training"]["batch_size"] //= len(domains)
        for domain in domains:
            config["tasks"] = {domain: {"type": "classification"}}
            for part in ("train", "test"):
                config["data"][part] = str(Path(folder) / f"{domain}-{part}.csv")
            one = trained(config)
            for key in ("error", "valid_error"):
                found[key] |= one[key]
            for key in ("seconds", "parameters"):
                found[key] += one[key]
    return found


def linear(tables: Path) -> dict[str, dict[str, float]]:
    """Test errors in percent of logistic regression on TF-IDF of words and pairs of words, by variant and domain."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train, test = (pd.read_csv(tables / f"{part}.csv", keep_default_na=False) for part in ("train", "test"))
    domains = sorted(train["domain"].unique())

    def labels(table: pd.DataFrame) -> np.ndarray:
        return np.array([row[row["domain"]] == "positive" for _, row in table.iterrows()])

    def features(texts: pd.Series, later: pd.Series) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        # The reviews are tokenised: their tokens stand apart, punctuation marks too.
        vectorizer = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        return vectorizer.fit_transform(texts), vectorizer.transform(later)

    def predicted(known: sparse.csr_matrix, answers: np.ndarray, asked: sparse.csr_matrix) -> np.ndarray:
        # The solver is for rows of 32-bit indices, and stops early enough not to matter.
        model = LogisticRegression(C=10, solver="liblinear", tol=1e-3)
        return np.asarray(model.fit(known, answers).predict(asked))

    def with_own(matrix: sparse.csr_matrix, table: pd.DataFrame) -> sparse.csr_matrix:
        """Shared features, and a copy for each domain of 0.7 of their weight (Daumé III, ACL 2007)."""
        own = [matrix.multiply((table["domain"] == d).to_numpy()[:, None] * np.float32(0.7)) for d in domains]
        return sparse.hstack([matrix, *own], format="csr")

    answers, truth = labels(train), labels(test)
    guesses = {"per domain": np.zeros(len(test), dtype=bool)}
    for domain in domains:
        rows, asked = (table["domain"] == domain for table in (train, test))
        known, unknown = features(train["text"][rows], test["text"][asked])
        guesses["per domain"][asked] = predicted(known, answers[rows], unknown)
    known, unknown = features(train["text"], test["text"])
    guesses["pooled"] = predicted(known, answers, unknown)
    guesses["shared and own"] = predicted(with_own(known, train), answers, with_own(unknown, test))
    return {
        name: {d: 100 * float((guess != truth)[test["domain"] == d].mean()) for d in domains}
        for name, guess in guesses.items()
    }


def mean(errors: Mapping[str, float]) -> float:
    """Over the domains."""
    return statistics.fmean(errors.values())


def table(found: Mapping[str, Any]) -> str:
    """What was measured, as a Markdown table."""
    lines = [
        "| encoder | sharing | test error, % | seeds | validation error, % | s | million parameters | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for encoder in ("bag", "cnn"):
        for name, scheme in SCHEMES.items():
            runs = list(found.get(encoder, {}).get(name, {}).values())
            if not runs:
                continue
            errors = [mean(run["error"]) for run in runs]
            spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
            valid = statistics.fmean(mean(run["valid_error"]) for run in runs)
            # Other work on the machine only ever adds.
            seconds = min(run["seconds"] for run in runs)
            size = statistics.fmean(run["parameters"] for run in runs) / 1e6
            lines.append(
                f"| {encoder} | {name} | {statistics.fmean(errors):.2f}{spread} | {len(runs)} | {valid:.2f} | "
                f"{seconds:.0f} | {size:.2f} | {scheme.note.get(encoder, '')} |"
            )
    for name, errors in found.get("linear", {}).items():
        lines.append(f"| logistic regression, TF-IDF | {name} | {mean(errors):.2f} | | | | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, help="the folder with train.csv and test.csv")
    parser.add_argument("--encoders", nargs="+", choices=["bag", "cnn"], default=["bag", "cnn"])
    parser.add_argument("--schemes", nargs="+", choices=list(SCHEMES), default=list(SCHEMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)

    def read() -> dict[str, Any]:
        return json.loads(options.json.read_text(encoding="utf-8")) if options.json.is_file() else {}

    def keep(path: tuple[str, ...], measure: Callable[[], Any]) -> None:
        """Measure what is not there yet, and write it down."""
        holder = read()
        for key in path[:-1]:
            holder = holder.get(key, {})
        if path[-1] in holder:
            return
        value = measure()
        # Read again: another process may have measured another part in the meantime.
        found = holder = {**read(), "versions": {"torch": torch.__version__, "threads": 1}}
        for key in path[:-1]:
            holder = holder.setdefault(key, {})
        holder[path[-1]] = value
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(table(found), flush=True)

    for encoder in options.encoders:
        for seed in options.seeds:
            for name in options.schemes:
                scheme = SCHEMES[name]
                measure = alone if scheme.sharing is None else together
                keep(
                    (encoder, name, str(seed)),
                    lambda m=measure, e=encoder, s=scheme, n=seed: m(e, s, options.tables, n),
                )
    keep(("linear",), lambda: linear(options.tables))
    print(table(read()))


if __name__ == "__main__":
    main()
