"""A new task from few examples, on what a run has learned."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.integration

PREPARE = Path(__file__).parents[2] / "examples" / "fdu_mtl" / "prepare.py"
DOMAINS = ["dvd", "electronics", "imdb", "magazines", "music"]


def configuration(rows: str, tasks: list[str], min_count: int, **data) -> dict:
    text = {"type": "text", "column": "text", "tokenizer": "words", "ngrams": 1, "length": 300, "min_count": min_count}
    return {
        "data": {"train": rows, **data},
        "inputs": {"text": text},
        "tasks": {task: {"type": "classification"} for task in tasks},
        "model": {"encoders": {"text": {"type": "bag", "dim": 32}}},
        "training": {"batch_size": 64, "optimizer": {"type": "adam", "lr": 0.005}, "tensorboard": False},
    }


@pytest.fixture
def domains(data_root: Path, tmp_path: Path) -> Path:
    """Five domains of FDU-MTL to learn first, and 50 reviews of a sixth."""
    subprocess.run([sys.executable, PREPARE, data_root / "fdu_mtl", tmp_path], check=True, timeout=120)
    train, test = (pd.read_csv(tmp_path / f"{part}.csv") for part in ("train", "test"))
    first = train[train["domain"].isin(DOMAINS)].groupby("domain").head(700)
    first[["text", *DOMAINS]].to_csv(tmp_path / "first.csv", index=False)
    books = train.query("domain == 'books'").sample(50, random_state=0)
    books[["text", "books"]].to_csv(tmp_path / "few.csv", index=False)
    test.query("domain == 'books'")[["text", "books"]].to_csv(tmp_path / "few_test.csv", index=False)
    first_run = configuration("first.csv", DOMAINS, 4, split={"valid": 0.1, "test": 0.0})
    few = configuration("few.csv", ["books"], 1, test="few_test.csv", split={"valid": 0.0, "test": 0.0})
    few["training"]["batch_size"] = 10
    for name, config in (("first", first_run), ("few", few)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_fifty_reviews_go_further_on_what_other_domains_taught(domains: Path, polytask):
    assert polytask("train", "first.yaml", "training.epochs=6", "-o", "first", "-q")[0] == 0
    ways = {"scratch": [], "adapted": ["--adapt", "first", "--task", "books", "training.transfer.freeze=true"]}
    accuracy = {}
    for name, words in ways.items():
        code, _, err = polytask("train", "few.yaml", *words, "training.epochs=15", "-o", name, "-q")
        assert code == 0, err
        found = json.loads(polytask("evaluate", name, "--json")[1])
        accuracy[name] = found["tasks"]["books"]["scores"]["accuracy"]
    assert accuracy["adapted"] > accuracy["scratch"] + 0.05
    assert accuracy["adapted"] > 0.6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapt", "nowhere"], "There is no run 'nowhere'"),
        (["--task", "weight"], "--task names the new task of --adapt RUN, which is not asked for"),
        (["--adapt", "run", "--task", "heavy"], "There is no task 'heavy'"),
        (["--adapt", "run"], "Which task is the new one? Say --task with one of 'tall', 'weight'"),
        (["--adapt", "run", "--task", "tall", "--resume", "run"], "either a configuration"),
    ],
)
def test_what_cannot_be_is_refused(config: Path, polytask, words: list[str], message: str):
    if "run" in words:
        assert polytask("train", config, "training.epochs=1", "-o", "run", "-q")[0] == 0
    code, _, err = polytask("train", config, *words, "-q")
    assert code == 2
    assert message in " ".join(err.split())
