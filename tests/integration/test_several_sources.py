"""Several data sets in one run: real reviews, and each mistake that can be made."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "examples"
DOMAINS = ("books", "mr", "software")
REST = """\
inputs:
  text: {type: text, column: text, tokenizer: words, ngrams: 2, buckets: 20000, length: 200}
tasks:
  books: {type: classification}
  mr: {type: classification}
  software: {type: classification}
model:
  encoders: {text: {type: bag, dim: 16, hidden: 16, dropout: 0.2}}
training: {epochs: 6, batch_size: 32, tensorboard: false, optimizer: {type: adam, lr: 3.0e-3}}
"""


def refused(result, *parts: str) -> None:
    code, _, err = result
    assert code == 2, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err, err


@pytest.fixture
def reviews(data_root: Path, tmp_path: Path) -> Path:
    """Three domains: as a file for each domain and part, and as one file for each part, with holes."""
    spec = importlib.util.spec_from_file_location("prepare", EXAMPLES / "fdu_mtl" / "prepare.py")
    assert spec is not None and spec.loader is not None
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    parts: dict[str, list[pd.DataFrame]] = {"train": [], "valid": [], "test": []}
    for domain in DOMAINS:
        files = {path.name.lower(): path for path in (data_root / "fdu_mtl").glob("*.gz")}
        train = prepare.reviews(files[f"{domain}.task.train.gz"], domain).drop(columns="domain")
        test = prepare.reviews(files[f"{domain}.task.test.gz"], domain).drop(columns="domain")
        train = train.sample(frac=1, random_state=0)
        for part, frame in (("train", train[:600]), ("valid", train[600:800]), ("test", test)):
            parts[part].append(frame)
            frame.to_csv(tmp_path / f"{domain}_{part}.csv", index=False)
    for part, frames in parts.items():
        pd.concat(frames, ignore_index=True).to_csv(tmp_path / f"{part}.csv", index=False)
    (tmp_path / "holed.yaml").write_text(f"data: {{train: train.csv, valid: valid.csv, test: test.csv}}\n{REST}")
    sources = "".join(
        f"  {domain}: {{train: {domain}_train.csv, valid: {domain}_valid.csv, test: {domain}_test.csv}}\n"
        for domain in DOMAINS
    )
    (tmp_path / "sources.yaml").write_text(f"data:\n{sources}{REST}")
    return tmp_path


def test_sources_and_one_table_with_holes_give_the_same_numbers(reviews: Path, polytask):
    found = {}
    for form in ("holed", "sources"):
        code, out, err = polytask("train", f"{form}.yaml", "-o", form)
        assert code == 0, err
        found[form] = out
        code, out, err = polytask("evaluate", form, "--json")
        assert code == 0, err
        found[f"{form} test"] = json.loads(out)
    assert found["holed test"] == found["sources test"]
    assert all(part["scores"]["accuracy"] > 0.55 for part in found["holed test"]["tasks"].values())
    metrics = [pd.read_csv(reviews / form / "metrics.csv") for form in ("holed", "sources")]
    pd.testing.assert_frame_equal(*metrics)
    assert "books 600" in found["sources"] and "Labels in the training part" in found["sources"]
    overlap = pd.read_csv(reviews / "sources" / "overlap.csv", index_col=0)
    assert (list(overlap.index), list(overlap.columns)) == (list(DOMAINS), list(DOMAINS))
    np.testing.assert_array_equal(overlap.to_numpy(), np.eye(3))
    pd.testing.assert_frame_equal(overlap, pd.read_csv(reviews / "holed" / "overlap.csv", index_col=0))
    labels = json.loads((reviews / "sources" / "summary.json").read_text())["labels"]
    assert labels["mr"] == {"labelled": 600, "by_source": {"books": 0, "mr": 600, "software": 0}}


def test_the_table_of_all_sources_is_the_holed_table(reviews: Path):
    from polytask.config import load_config
    from polytask.training.sources import open_sources

    holed = open_sources(load_config(reviews / "holed.yaml")).parts
    combined = open_sources(load_config(reviews / "sources.yaml")).parts
    for part in ("train", "valid", "test"):
        there, here = holed[part], combined[part]
        columns = ["text", *DOMAINS]
        assert here.table.take(here.rows, columns).to_pylist() == there.table.take(there.rows, columns).to_pylist()
    row = len(combined["train"]) + 250
    assert combined["train"].table.locate(row).startswith(f"{reviews / 'mr_valid.csv'}, row 51 (line ")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """People in two tables that a key joins, and others that are in a table of their own."""
    draw = np.random.default_rng(0)
    height = draw.normal(170, 10, 300).round(1)
    pd.DataFrame({"id": np.arange(300), "height": height, "age": draw.integers(18, 80, 300)}).to_csv(
        tmp_path / "people.csv", index=False
    )
    pd.DataFrame({"person": np.arange(50, 300), "tall": np.where(height[50:] > 170, "yes", "no")}).sample(
        frac=1, random_state=0
    ).to_csv(tmp_path / "answers.csv", index=False)
    other = draw.normal(170, 10, 200).round(1)
    pd.DataFrame({"cm": other, "age": 30, "tall": (0.9 * other - 90).round(1)}).to_csv(
        tmp_path / "others.csv", index=False
    )
    (tmp_path / "c.yaml").write_text(
        """\
data:
  people: {train: people.csv, key: id}
  answers: {train: answers.csv, key: person}
  others: {train: others.csv, rename: {cm: height}}
inputs:
  row: {type: tabular}
tasks:
  tall: {type: classification, sources: answers}
  weight: {type: regression, target: tall, sources: others}
model: {encoders: {row: {type: mlp, width: 16, depth: 2}}}
training: {epochs: 8, batch_size: 32, tensorboard: false, optimizer: {type: adamw, lr: 1.0e-2}}
"""
    )
    return tmp_path


def test_joined_and_separate_sources_from_training_to_prediction(tables: Path, polytask):
    code, out, err = polytask("train", "c.yaml", "--dry-run")
    assert code == 0, err
    assert "1 tall" in out and "answers " in out and "others 160" in out
    assert not (tables / "runs").exists()
    code, out, err = polytask("train", "c.yaml", "-o", "run")
    assert code == 0, err
    inputs = json.loads((tables / "run" / "model" / "config.json").read_text())["preparation"]["inputs"]
    columns = [column["name"] for kind in ("numeric", "categorical") for column in inputs["row"][kind]]
    assert columns == ["height", "age"], "neither keys nor targets"
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["rows"] == 30 + 20
    assert all(part["gain"] > 0.3 for part in found["tasks"].values())

    code, out, err = polytask("evaluate", "run", "--data", "others.csv", "--source", "others", "--json")
    assert code == 0, err
    assert list(json.loads(out)["tasks"]) == ["weight"]
    code, out, err = polytask("predict", "run", "others.csv", "--source", "others", "-o", "p.csv")
    assert code == 0, err
    predicted = pd.read_csv(tables / "p.csv")
    assert (predicted.weight - pd.read_csv(tables / "others.csv").tall).abs().mean() < 5
    plain = pd.read_csv(tables / "others.csv").rename(columns={"cm": "height"}).drop(columns="tall")
    plain.to_csv(tables / "plain.csv", index=False)
    code, out, err = polytask("predict", "run", "plain.csv", "-o", "q.csv")
    assert code == 0, err
    pd.testing.assert_frame_equal(pd.read_csv(tables / "q.csv"), predicted)

    refused(polytask("evaluate", "run", "--data", "others.csv"), "--source NAME", "'people', 'answers', 'others'")
    unsure = "has the column 'cm', which the run's source 'others' calls 'height': say which source"
    refused(polytask("predict", "run", "others.csv", "-o", "r.csv"), unsure)
    refused(polytask("predict", "run", "others.csv", "--source", "other", "-o", "r.csv"), "Did you mean 'others'")
    refused(polytask("evaluate", "run", "--source", "others"), "give the table too")


@pytest.fixture
def stopped(tables: Path, polytask, monkeypatch) -> Path:
    """A run that stopped after its third epoch."""
    from polytask.training.run_folder import RunFolder

    write = RunFolder.write_history

    def stop(folder, history):
        write(folder, history)
        if len(history) == 3:
            raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_history", stop)
        assert polytask("train", "c.yaml", "-o", "half")[0] == 1
    return tables / "half"


def test_a_stopped_run_over_sources_goes_on_as_it_began(stopped: Path, polytask):
    assert polytask("train", "c.yaml", "-o", "whole")[0] == 0
    code, _out, err = polytask("train", "--resume", "half")
    assert code == 0, err
    whole, half = (pd.read_csv(stopped.parent / name / "metrics.csv") for name in ("whole", "half"))
    assert len(whole) == 8
    pd.testing.assert_frame_equal(whole, half)


def test_a_stopped_run_one_of_whose_sources_has_changed_is_refused(stopped: Path, tables: Path, polytask):
    others = pd.read_csv(tables / "others.csv")
    others.assign(cm=others.cm + 1).to_csv(tables / "others.csv", index=False)
    refused(polytask("train", "--resume", "half"), "have changed")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["tasks.tall.sources=[people]"], ["none of its sources 'people' has the column 'tall'"]),
        (["tasks.tall.target=tal"], ["no", "column 'tal'", "Did you mean 'tall'"]),
        (["tasks.weight.sources=answers"], ["'others' labels no task"]),
        (["data.answers.key=persn"], ["answers.csv has no column 'persn'", "Did you mean 'person'"]),
        (
            ["data.answers.key=tall"],
            ["the key 'no' is there already", "2 keys are there more than once"],
        ),
        (["data.people.key=age"], ["people.csv", "the key"]),
        (["data.people.test=people.csv"], ["300 keys are in the training data", "0, 1, 2, 3", "8, 9 and 290"]),
        (["tasks.weight.sources=null"], ["column 'tall'", "category", "number", "'answers'", "'others'"]),
    ],
)
def test_each_mistake_has_one_message(tables: Path, polytask, words, parts):
    refused(polytask("train", "c.yaml", *words), *parts)
    assert not (tables / "runs").exists()


def test_keys_that_match_nowhere(tables: Path, polytask):
    answers = pd.read_csv(tables / "answers.csv")
    answers.assign(person=answers.person + 1000).to_csv(tables / "answers.csv", index=False)
    refused(polytask("train", "c.yaml"), "No key 'id' of the source 'people'", "Keys of 'people': 0, 1, 2")


def test_classes_that_each_source_calls_otherwise(tables: Path, polytask):
    frame = pd.DataFrame({"height": [1.0, 2.0] * 30, "age": 3, "tall": ["ja", "nein"] * 30})
    frame.to_csv(tables / "others.csv", index=False)
    words = ["data.others.rename={}", "tasks={tall: classification}"]
    refused(polytask("train", "c.yaml", *words), "'no', 'yes' in the source 'answers'", "'ja', 'nein' in 'others'")
