"""The configuration without its auxiliary tasks."""

import pytest

from polytask.config import Config
from polytask.config.without_auxiliary import without_auxiliary
from polytask.errors import UserError


def config(balancing="equal", **changes):
    values = {
        "data": {"train": "t.csv", "split": {"valid": 0.2}},
        "inputs": {"row": {"type": "tabular", "columns": "*"}},
        "tasks": {
            "kind": {"type": "classification"},
            "size": {"type": "regression"},
            "extra": {"type": "regression", "auxiliary": True},
        },
        "balancing": balancing,
        **changes,
    }
    return Config.from_mapping(values)


def test_what_names_an_auxiliary_task_goes_with_it():
    static = {"type": "static", "weights": {"kind": 1.0, "size": 2.0, "extra": 0.5}}
    relations = [
        {"type": "cascade", "task": "kind", "reads": "extra"},
        {"type": "cascade", "task": "kind", "reads": "size"},
    ]
    settings = config(
        static,
        model={"relations": relations},
        training={"tasks": {"extra": {"lr_scale": 4.0}, "size": {"lr_scale": 8.0}}},
    )
    plain = without_auxiliary(settings, 5)
    assert plain.balancing.parameters["weights"] == {"kind": 1.0, "size": 2.0}
    assert len(plain.model.relations) == 1
    assert list(plain.training.tasks) == ["size"]
    assert plain.training.epoch_length == 5
    assert without_auxiliary(config("gradient_cosine"), 5).balancing.type == "equal"


def test_a_schedule_forgets_what_it_says_of_an_auxiliary_task():
    settings = config(schedule={"type": "curriculum", "start": {"extra": 2, "size": 2}}, training={"epochs": 3})
    assert list(without_auxiliary(settings, 5).schedule.parameters["start"]) == ["size"]


def test_a_comparison_needs_auxiliary_tasks():
    plain = config(tasks={"size": {"type": "regression"}})
    with pytest.raises(UserError, match="No task is auxiliary"):
        without_auxiliary(plain, 5)


def test_without_auxiliary_tasks_inputs_read_nothing_more_and_sources_without_a_task_go():
    named = {"first": {"train": "t.csv"}, "second": {"train": "t.csv"}}
    changed = config(
        data=named,
        tasks={
            "kind": {"type": "classification", "sources": "first"},
            "extra": {"type": "regression", "sources": "second", "auxiliary": True, "sample_weight": "w"},
        },
    )
    plain = without_auxiliary(changed, 5, ["first"])
    assert list(plain.sources) == ["first"]
    assert {"extra", "w"} <= set(plain.inputs["row"].parameters["exclude"])
