"""Several inputs in a configuration, and their fusion."""

import pytest

from polytask.config import Config
from polytask.errors import UserError


def values(**changes):
    return {
        "data": {"train": "things.csv"},
        "inputs": {
            "text": {"type": "text", "column": "words"},
            "row": {"type": "tabular", "columns": ["a", "b"]},
        },
        "tasks": {"kind": "classification", "size": "regression"},
        **changes,
    }


ONE = {"row": {"type": "tabular", "columns": ["a", "b"]}}


def test_several_inputs_are_put_side_by_side_unless_something_else_is_said():
    config = Config.from_mapping(values())
    assert config.model.fusion.type == "concat"
    assert list(config.model.encoders) == ["text", "row"]
    assert Config.from_mapping(config.to_mapping()) == config
    assert Config.from_mapping(values(inputs=ONE)).model.fusion is None
    chosen = Config.from_mapping(values(model={"fusion": {"type": "perceiver", "latents": 4}}))
    assert chosen.model.fusion.parameters["latents"] == 4


def test_one_input_can_have_a_fusion_too():
    config = Config.from_mapping(values(inputs=ONE, model={"fusion": "shared_transformer"}))
    assert config.model.fusion.type == "shared_transformer"


@pytest.mark.parametrize(
    ("fusion", "parts"),
    [
        ("concatenate", ["There is no fusion 'concatenate'", "Did you mean 'concat'?"]),
        ({"type": "concat", "drop": 1.5}, ["model.fusion.drop", "less than 1"]),
        ({"type": "concat", "wide": 3}, ["model.fusion.wide", "width"]),
    ],
)
def test_a_fusion_that_cannot_be_is_told(fusion, parts):
    with pytest.raises(UserError) as error:
        Config.from_mapping(values(model={"fusion": fusion}))
    for part in parts:
        assert part in str(error.value)


def test_one_task_alone_keeps_the_fusion_of_the_inputs_that_its_rows_have():
    config = Config.from_mapping(
        values(model={"fusion": "shared_transformer"}, training={"encoders": {"text": {"lr_scale": 0.1}}})
    )
    alone = config.only_task("kind")
    assert list(alone.inputs) == ["text", "row"]
    assert alone.model.fusion == config.model.fusion
    alone = config.only_task("kind", inputs=["row"])
    assert list(alone.inputs) == list(alone.model.encoders) == ["row"]
    assert not alone.training.encoders
    assert alone.model.fusion == config.model.fusion


def test_rows_of_several_inputs_are_not_mixed():
    mixing = {"tasks": {"kind": {"mixing": "mixup"}}}
    with pytest.raises(UserError, match="rows of one input can be mixed, but the model has 2"):
        Config.from_mapping(values(training=mixing))
