"""Rows without labels in a configuration."""

import pytest

from polytask.config import Config
from polytask.errors import UserError


def config(own, schedule="joint", names=None, **training) -> Config:
    return Config.from_mapping(
        {
            "data": {"train": "t.csv"},
            "inputs": {"row": "tabular"},
            "tasks": names or {"y": "regression", "z": "classification", "t": "multi_label"},
            "schedule": schedule,
            "training": {"tasks": own, **training},
        }
    )


def test_a_task_learns_from_them_or_not():
    found = config(
        {"z": {"unlabelled": "pseudo_labels"}, "y": {"unlabelled": {"type": "consistency", "weight": 3.0}}},
        unlabelled_batch_size=9,
    )
    use = found.training.tasks["z"].unlabelled
    assert use.parameters == {"threshold": 0.95, "weight": 1.0, "ramp": 0.0}
    assert found.training.tasks["y"].unlabelled.create().weight == 3
    assert found.training.unlabelled_batch_size == 9
    assert Config.from_mapping(found.to_mapping()) == found
    assert config({"z": {}}).training.tasks["z"].unlabelled is None
    assert config({"z": {"unlabelled": None}}).training.unlabelled_batch_size is None


@pytest.mark.parametrize(
    ("own", "schedule", "message"),
    [
        ({"z": {"unlabelled": "pseudo_label"}}, "joint", "training.tasks.z.unlabelled: .*Did you mean 'pseudo_labels'"),
        (
            {"z": {"unlabelled": 3}},
            "joint",
            "training.tasks.z.unlabelled: expected the name of a use of unlabelled rows",
        ),
        (
            {"z": {"unlabelled": {"type": "pseudo_labels", "threshold": 95}}},
            "joint",
            "training.tasks.z.unlabelled.threshold: threshold is 95",
        ),
        (
            {"z": {"unlabelled": {"type": "consistency", "threshold": 0.9}}},
            "joint",
            "training.tasks.z.unlabelled.threshold: 'consistency' has no such setting",
        ),
        (
            {"z": {"unlabelled": {"type": "consistency", "measure": "kld"}}},
            "joint",
            "training.tasks.z.unlabelled.measure: .*Did you mean 'kl'",
        ),
        (
            {"y": {"unlabelled": "pseudo_labels"}},
            "joint",
            r"training.tasks.y.unlabelled: pseudo_labels needs probabilities, but the task 'y' \(Regression\) has none",
        ),
        (
            {"y": {"unlabelled": {"type": "consistency", "measure": "kl"}}},
            "joint",
            "training.tasks.y.unlabelled: measure: kl needs probabilities, but the task 'y'",
        ),
        (
            {"z": {"unlabelled": "consistency"}},
            "meta",
            "training.tasks.z.unlabelled: in the schedule 'meta', steps are taken on trial",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_key(own, schedule, message):
    with pytest.raises(UserError, match=message):
        config(own, schedule)


def test_they_are_as_many_as_rows_can_be():
    with pytest.raises(UserError, match="training.unlabelled_batch_size: .* at least 1, found 0"):
        config({}, unlabelled_batch_size=0)


def test_a_single_task_keeps_the_sources_that_it_learns_from():
    names = {"y": {"type": "regression", "sources": "a"}, "z": "classification"}
    values = {
        "data": {"a": {"train": "a.csv"}, "b": {"train": "b.csv"}},
        "inputs": {"row": {"type": "tabular", "columns": ["x"]}},
        "tasks": names,
    }
    learning = {**values, "training": {"tasks": {"y": {"unlabelled": "consistency"}}}}
    assert list(Config.from_mapping(values).only_task("y").sources) == ["a"]
    alone = Config.from_mapping(learning).only_task("y")
    assert list(alone.sources) == ["a", "b"]
    assert alone.training.tasks["y"].unlabelled.type == "consistency"
