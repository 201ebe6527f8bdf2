"""One encoder that reads several inputs, in a configuration."""

import pytest

from polytask.config import Config
from polytask.errors import UserError

INPUTS = {"large": {"type": "image", "column": "a", "size": 64}, "small": {"type": "image", "column": "b", "size": 32}}


def config(model=None, inputs=None):
    return Config.from_mapping(
        {
            "data": {"one": {"train": "one.csv"}, "two": {"train": "two.csv"}},
            "inputs": inputs or INPUTS,
            "tasks": {"x": {"type": "classification"}, "y": {"type": "classification"}},
            "model": {"fusion": "one_encoder", **(model or {})},
        }
    )


def test_it_is_that_of_the_input_that_has_one_and_by_default_of_the_first():
    assert list(config().model.encoders) == ["large"]
    given = config({"encoders": {"small": {"type": "resnet", "depth": 34}}})
    assert list(given.model.encoders) == ["small"]
    assert given.model.encoders["small"].parameters["depth"] == 34
    assert given.one_encoder and not Config.from_mapping(config().to_mapping() | {"model": {}}).one_encoder


def test_a_task_alone_keeps_it_under_the_name_of_its_own_input():
    whole = config({"encoders": {"small": {"type": "resnet", "depth": 34}}})
    alone = whole.only_task("x", ["one"], ["large"])
    assert list(alone.inputs) == list(alone.model.encoders) == ["large"]
    assert alone.model.encoders["large"].parameters["depth"] == 34


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        ({"encoders": {"large": "cnn", "small": "cnn"}}, None, "one encoder reads all inputs .*, but 2 are given"),
        ({}, {**INPUTS, "text": {"type": "text", "column": "t"}}, "one encoder cannot read inputs of several kinds"),
        ({"encoders": {"lage": "cnn"}}, None, "there is no input of this name. Did you mean 'large'"),
    ],
)
def test_what_cannot_be_is_refused(model, inputs, message):
    with pytest.raises(UserError, match=message):
        config(model, inputs)
