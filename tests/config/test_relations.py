"""Relations in a configuration: their form, what they demand, and that a saved model has them again."""

import json
import sys

import pandas as pd
import pytest
import torch

from polytask.config import Config, json_schema, load_config
from polytask.config.families import Kind
from polytask.errors import UserError
from polytask.training.saved_model import ModelDescription, load_description, save_description

TEXT = """\
data: {train: t.csv}
inputs:
  row: {type: tabular}
tasks:
  left: {type: classification, target: l}
  right: {type: regression, target: r}
  both: {type: classification, target: b}
model:
  relations:
    - {type: cascade, task: right, reads: left, use: both}
    - type: cross_task_attention
      task: both
      reads: [left, right]
      detach: true
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def load(text, *overrides):
        (tmp_path / "c.yaml").write_text(text)
        return load_config("c.yaml", overrides)

    return load


def test_relations_are_complete_and_load_back_equal(load):
    config = load(TEXT)
    first, second = config.model.relations
    assert (first.type, first.kind) == ("cascade", Kind.RELATION)
    assert first.parameters == {"task": "right", "reads": "left", "use": "both", "detach": False}
    assert second.parameters == {"task": "both", "reads": ["left", "right"], "detach": True, "dim": None, "heads": 1}
    assert second.create().reads == ("left", "right")
    assert Config.from_mapping(config.to_mapping()) == config
    assert load(TEXT.split("model:", maxsplit=1)[0]).model.relations == []


def test_overrides_reach_into_the_list(load):
    assert load(TEXT, "model.relations.0.detach=true").model.relations[0].parameters["detach"] is True


def test_a_task_alone_reads_no_other(load):
    assert load(TEXT).only_task("right").model.relations == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            ("reads: left,", "reads: lefft,"),
            "c.yaml, line 10: model.relations[0].reads: there is no task 'lefft'. Did you mean 'left'? The tasks: "
            "'left', 'right', 'both'.",
        ),
        (
            ("task: both", "task: bot"),
            "c.yaml, line 12: model.relations[1].task: there is no task 'bot'. Did you mean 'both'?",
        ),
        (
            ("reads: left,", "reads: both,"),
            "c.yaml, line 11: model.relations[1]: the tasks read each other in a circle: ",
        ),
        (
            ("reads: left,", "reads: [left, right],"),
            "c.yaml, line 10: model.relations[0]: The task 'right' reads i",
        ),
        (
            ("reads: left,", "reads: [],"),
            "c.yaml, line 10: model.relations[0]: The task 'right' is to re",
        ),
        (("reads: left,", ""), "c.yaml, line 10: model.relations[0].reads: is missing; it has no default."),
        (("reads: left,", "reads: 3,"), "c.yaml, line 10: model.relations[0].reads: expected text or a list, found 3."),
        (
            ("use: both", "use: logits"),
            "c.yaml, line 10: model.relations[0].use: expected 'prediction', 'features' or 'both', found 'logits'.",
        ),
        (
            ("detach: true", "detatch: true"),
            "c.yaml, line 14: model.relations[1].detatch: 'cross_task_attention' has no such setting. Did you mean ",
        ),
        (
            ("type: cascade", "type: cascades"),
            "c.yaml, line 10: model.relations[0].type: There is no relation 'cascades'. Did you mean 'cascade'? Allow",
        ),
        (
            ("detach: true", "heads: 0"),
            "c.yaml, line 14: model.relations[1].heads: heads is 0, but must be at least 1.",
        ),
        (("{type: cascade, task: right, reads: left, use: both}", "cascade"), "model.relations[0].task: is missing;"),
        ((TEXT[TEXT.index("\n    - {type") :], " {}\n"), "model.relations: expected a list, found an empty mapping."),
    ],
)
def test_what_is_wrong_has_its_place(load, change, problem):
    assert change[0] in TEXT
    with pytest.raises(UserError) as raised:
        load(TEXT.replace(*change))
    assert problem in str(raised.value)


def test_a_circle_names_its_steps(load):
    with pytest.raises(UserError) as raised:
        load(TEXT.replace("reads: left,", "reads: both,"))
    message = str(raised.value)
    assert "'right' reads 'both'" in message
    assert "'both' reads 'right'" in message
    assert "'left'" not in message


def test_the_schema_lists_them():
    relations = json_schema()["$defs"]["ModelConfig"]["properties"]["relations"]
    assert relations["items"] == {"$ref": "#/$defs/relation"}
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    good = {"data": {"train": "t.csv"}, "inputs": {"row": "tabular"}, "tasks": {"a": "regression", "b": "regression"}}
    for relation in ({"type": "cascade", "task": "a", "reads": "b"}, {"type": "my.Own", "x": 1}):
        assert not list(validator.iter_errors({**good, "model": {"relations": [relation]}}))
    for relation in ("cascade", {"type": "cascade", "task": "a"}, {"type": "cascade", "task": "a", "reads": 3}):
        assert list(validator.iter_errors({**good, "model": {"relations": [relation]}}))


def test_a_saved_model_has_its_relations_again(load, tmp_path):
    from polytask.training.job import make_job

    draw = torch.Generator().manual_seed(0)
    numbers = torch.randn(60, 3, generator=draw)
    table = pd.DataFrame(numbers.numpy(), columns=["x", "y", "r"])
    table["l"] = ["u" if value > 0 else "v" for value in numbers[:, 0]]
    table["b"] = ["u" if value > 0 else "w" for value in numbers[:, 1]]
    table.to_csv("t.csv", index=False)
    job = make_job(load(TEXT, "model.encoders.row={type: mlp, width: 8, depth: 1}"))
    assert set(job.model.shared_parameters()) >= set(job.model.heads["left"].parameters())
    assert job.count_parameters()["shared"] == sum(p.numel() for p in job.model.shared_parameters())
    save_description(tmp_path / "model", job.description, job.preparation.shapes)
    described = load_description(tmp_path / "model")
    again, _ = described.build(job.preparation.shapes)
    again.load_state_dict(job.model.state_dict())
    inputs = next(iter(job.train.loader)).inputs
    expected = job.model.eval()(inputs)
    torch.testing.assert_close(again.eval()(inputs), expected)
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    assert [relation["type"] for relation in content["relations"]] == ["cascade", "cross_task_attention"]
    # What was saved before there were relations has none.
    del content["relations"], content["format"], content["shapes"]
    assert ModelDescription(**content).relations == ()
