"""Batch sizes, samplers and row weights in a configuration."""

import pytest

from polytask.config import Config
from polytask.config.checks import steering_columns
from polytask.errors import UserError

APART = {"type": "joint", "draw": "tasks"}


def config(schedule=None, names=None, **training) -> Config:
    values = {
        "data": {"train": "t.csv"},
        "inputs": {"row": "tabular"},
        "tasks": names or {"y": "regression", "z": "classification"},
        "training": training,
    }
    return Config.from_mapping(values if schedule is None else {**values, "schedule": schedule})


def test_a_task_has_its_own_or_nothing():
    own = {"y": {"batch_size": 8, "sampler": {"type": "weighted", "column": "w"}}, "z": {"sampler": "class_balanced"}}
    found = config(APART, tasks=own, sampler={"type": "by_length", "chunk": 9})
    assert found.training.sampler.create().chunk == 9
    assert found.training.tasks["y"].batch_size == 8
    assert found.training.tasks["y"].sampler.create().column == "w"
    assert found.training.tasks["z"].batch_size is None
    assert Config.from_mapping(found.to_mapping()) == found
    assert config(APART, tasks={"y": {"sampler": None}}).training.tasks["y"].sampler is None


def test_columns_that_steer_stay_out_of_the_baselines_inputs():
    tasks = {"y": {"type": "regression", "sample_weight": "trust"}, "z": "classification"}
    own = {"z": {"sampler": {"type": "weighted", "column": "w"}}}
    found = config(APART, tasks, tasks=own, sampler={"type": "weighted", "column": "v"})
    assert steering_columns(found) == ["v", "w", "trust"]
    alone = found.only_task("z")
    assert list(alone.training.tasks) == ["z"]
    assert set(alone.inputs["row"].parameters["exclude"]) == {"trust", "v", "w", "y"}


@pytest.mark.parametrize(
    ("schedule", "training", "message"),
    [
        (APART, {"tasks": {"x": {"batch_size": 3}}}, "training.tasks.x: there is no task of this name. .*'y', 'z'"),
        (APART, {"tasks": {"y": {"batch_size": 0}}}, "training.tasks.y.batch_size: .* at least 1, found 0"),
        (APART, {"tasks": {"y": {"batch_sise": 3}}}, "training.tasks.y.batch_sise: .*Did you mean 'batch_size'"),
        (APART, {"tasks": {"y": {"sampler": "shuffle"}}}, "training.tasks.y.sampler: .*Did you mean 'shuffled'"),
        (APART, {"tasks": {"y": {"sampler": 3}}}, "training.tasks.y.sampler: expected the name of a sampler"),
        (APART, {"sampler": "weighted"}, "training.sampler.column: is missing"),
        (APART, {"sampler": {"type": "by_length", "chunk": 0}}, "training.sampler.chunk: chunk is 0"),
        (
            None,
            {"tasks": {"y": {"batch_size": 3}}},
            "tasks.y.batch_size: in the schedule 'joint', rows are drawn for all",
        ),
        (None, {"tasks": {"y": {"sampler": "shuffled"}}}, "training.tasks.y.sampler: in the schedule 'joint'"),
        ({"type": "joint", "draw": "task"}, {}, "schedule.draw: .*Did you mean 'tasks'"),
        (None, {"checkpoint_every": 0}, "training.checkpoint_every: .* at least 1, found 0"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(schedule, training, message):
    with pytest.raises(UserError, match=message):
        config(schedule, **training)


def test_a_single_task_has_turns_of_its_own_in_any_schedule():
    found = config(names={"z": "classification"}, tasks={"z": {"sampler": "class_balanced", "batch_size": 3}})
    assert found.training.tasks["z"].batch_size == 3
