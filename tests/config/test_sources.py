"""Several sources in a configuration."""

import sys
from pathlib import Path

import jsonschema
import pytest

from polytask.config import Config, json_schema, load_config
from polytask.config.document import parse_document
from polytask.errors import UserError

SEVERAL = """\
data:
  reviews: {train: reviews.csv, test: late.csv, rename: {body: text}}
  posts:
    train: posts.csv
    columns: {stars: number}
inputs:
  text: {type: text, column: text}
tasks:
  mood: {type: classification, target: label, sources: reviews}
  stars: {type: regression}
"""

JOINED = """\
data:
  images: {train: images.csv, key: id, split: {seed: 5}}
  labels: {train: labels.csv, key: num}
  free: {train: free.csv}
inputs:
  row: {type: tabular}
tasks: {y: regression}
"""

ONE = "data: {train: a.csv, key: id}\ninputs: {row: tabular}\ntasks: {y: regression}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text: str) -> Path:
        path = Path("c.yaml")
        path.write_text(text)
        return path

    return write


@pytest.fixture
def refusal(write):
    def refusal(text: str, *overrides: str) -> str:
        with pytest.raises(UserError) as raised:
            load_config(write(text), overrides)
        return str(raised.value)

    return refusal


def test_sources_are_there_by_name_with_absolute_paths(write, tmp_path):
    config = load_config(write(SEVERAL))
    assert list(config.sources) == ["reviews", "posts"]
    assert config.sources["reviews"].test == str(tmp_path / "late.csv")
    assert config.sources["reviews"].rename == {"body": "text"}
    assert config.sources["posts"].train == str(tmp_path / "posts.csv")
    assert config.sources["posts"].split.valid == 0.1
    assert config.tasks["mood"].parameters["sources"] == "reviews"


def test_one_source_is_as_it_was(write, tmp_path):
    config = load_config(write(ONE))
    assert config.data.train == str(tmp_path / "a.csv")
    assert list(config.sources.values()) == [config.data]
    assert config.data.key == "id"


@pytest.mark.parametrize("text", [SEVERAL, JOINED])
def test_it_loads_back_equal(write, text):
    config = load_config(write(text))
    again = Config.from_mapping(parse_document(config.to_yaml(), "c.yaml").data)
    assert again == config
    assert Config.from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize(
    "text", [SEVERAL, JOINED, "data: {train: a.csv}\ninputs: {row: tabular}\ntasks: {y: regression}"]
)
def test_the_schema_takes_it(write, text):
    jsonschema.validate(parse_document(text, "c.yaml").data, json_schema())


def test_the_schema_refuses_what_is_neither():
    data = parse_document(SEVERAL, "c.yaml").data
    data["data"]["posts"]["trian"] = "x.csv"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json_schema())


def test_overrides_reach_a_source(write, tmp_path):
    config = load_config(
        write(SEVERAL), ["data.reviews.train=other.csv", "data.posts.split.seed=4", "data.new.train=n.csv"]
    )
    assert config.sources["reviews"].train == str(tmp_path / "other.csv")
    assert config.sources["posts"].split.seed == 4
    assert config.sources["new"].train == str(tmp_path / "n.csv")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("train: posts.csv", "trian: posts.csv", ["c.yaml, line 4: data.posts.trian", "Did you mean 'train'"]),
        ("train: posts.csv", "trian: posts.csv", ["c.yaml, line 3: data.posts.train: is missing"]),
        ("stars: number", "stars: numbr", ["c.yaml, line 5: data.posts.columns.stars", "Did you mean 'number'"]),
        ("rename: {body: text}", "rename: {a: x, b: x}", ["line 2: data.reviews.rename", "both be called 'x'"]),
        ("rename: {body: text}", "split: {by: group}", ["line 2: data.reviews.split", "give the 'column'"]),
        ("rename: {body: text}", "delimiter: '::'", ["line 2: data.reviews.delimiter", "one character"]),
        ("  posts:", "  valid:", ["data.valid", "cannot be called 'valid'"]),
        ("sources: reviews", "sources: review", ["line 9: tasks.mood.sources", "Did you mean 'reviews'"]),
        ("sources: reviews", "sources: []", ["line 9: tasks.mood", "empty list"]),
        ("sources: reviews", "sources: 3", ["line 9: tasks.mood.sources", "expected"]),
    ],
)
def test_mistakes_are_named_by_line_and_key(refusal, old, new, parts):
    message = refusal(SEVERAL.replace(old, new))
    for part in parts:
        assert part in message


def test_a_source_that_is_no_mapping_is_refused(refusal):
    message = refusal(SEVERAL, "data.posts=posts.csv")
    assert "data.posts: expected a mapping (key: value), found 'posts.csv'" in message


def test_two_mistakes_are_both_told(refusal):
    message = refusal(SEVERAL.replace("train: reviews.csv", "train: 3").replace("train: posts.csv", "train: 4"))
    assert "2 problems" in message and "data.reviews.train" in message and "data.posts.train" in message


def test_a_task_cannot_name_sources_where_there_are_none(refusal):
    text = "data: {train: a.csv}\ninputs: {row: tabular}\ntasks: {y: {type: regression, sources: [a]}}\n"
    assert "tasks.y.sources: `data` is one source without a name" in refusal(text)


def test_joined_sources_are_split_alike(write, refusal):
    config = load_config(write(JOINED))
    assert config.sources["images"].split.seed == config.sources["labels"].split.seed == 5
    assert config.sources["free"].split.seed == 0
    message = refusal(JOINED, "data.labels.split.seed=6")
    assert "data.labels.split: joined sources are split together" in message and "'labels' and 'images'" in message


def test_a_task_alone_keeps_the_sources_that_label_it_and_those_joined_with_them(write):
    config = load_config(write(SEVERAL))
    assert list(config.only_task("mood").sources) == ["reviews"]
    assert list(config.only_task("stars").sources) == ["reviews", "posts"]
    assert list(config.only_task("stars", ["posts"]).sources) == ["posts"]
    with pytest.raises(UserError, match="no source 'post'. Did you mean 'posts'"):
        config.only_task("stars", ["post"])
    joined = load_config(write(JOINED))
    assert list(joined.only_task("y", ["labels"]).sources) == ["images", "labels"]
    assert list(joined.only_task("y", ["free"]).sources) == ["free"]


def test_one_task_alone_has_no_epochs_as_long_as_those_of_another(tmp_path):
    values = {
        "data": {"train": "t.csv"},
        "inputs": {"row": {"type": "tabular", "columns": ["u"]}},
        "tasks": {"a": {"type": "regression"}, "b": {"type": "regression"}},
        "training": {"epoch_length": "b"},
    }
    assert Config.from_mapping(values).only_task("a").training.epoch_length == "rows"
