"""Batch sizes and samplers of single tasks, and steps that draw each task's own rows."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare

from polytask.data.inputs import create as create_input
from polytask.data.preparation import Preparation
from polytask.data.samplers import ByLength, ClassBalanced, Weighted
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec
from polytask.schedules import Alternating, Curriculum, EpochReport, Joint
from polytask.training.plan import Plan
from polytask.training.steps import Steps
from polytask.training.task_streams import Sampling

ROWS = 60


def values() -> pd.DataFrame:
    """50 rows for a, 20 for b, 6 for c (4 of one class, 2 of another); some for two, some for none."""
    row = np.arange(ROWS)
    found = pd.DataFrame({"x": row * 1.0, "w": row % 3})
    found["a"] = np.where(row < 50, row * 1.0, np.nan)
    found["b"] = np.where((row >= 30) & (row < 50), row * 2.0, np.nan)
    found["c"] = np.where(row < 4, "yes", np.where(row < 6, "no", None))
    found["z"] = found["a"]
    return found


def steps(schedule, tasks=("a", "b", "c"), cache_bytes=2**30, table=None, **options) -> Steps:
    table = Table.of(values() if table is None else table, source="t.csv")
    kinds = {"c": "category"}
    targets = {task: TargetSpec(kind=kinds.get(task, "numbers"), columns=(task,)) for task in tasks}
    prepared = Preparation.fit(table, np.arange(ROWS), {"row": create_input("tabular", columns=["x"])}, targets)
    options = {"batch_size": 8, **options}
    loader = prepared.loader(
        table,
        batch_size=8,
        training=True,
        cache_bytes=cache_bytes,
        order=lambda encoded: Plan(schedule, encoded, tasks, **options),
    )
    return Steps(loader, loader.order)


def rows_of(found, task, epochs=1):
    """The rows that count for a task, step by step, in the order in which they were drawn."""
    drawn = []
    for _ in range(epochs):
        for step in found:
            for batch in step.batches:
                if batch.has(task):
                    own = batch.labelled[task]
                    drawn.append((batch.rows if own is None else batch.rows[own]).tolist())
        found.plan.epoch_end(EpochReport())
    return drawn


def test_a_turn_of_one_task_has_its_own_batch_size():
    found = steps(Alternating(), own={"b": Sampling(batch_size=3), "c": Sampling(batch_size=5)})
    sizes = {task: {len(rows) for rows in rows_of(found, task)[:1]} for task in "abc"}
    assert sizes == {"a": {8}, "b": {3}, "c": {5}}
    # 50 rows by 8, 20 by 3 and 6 by 5.
    assert len(found) == 7 + 7 + 2


def test_a_turn_of_several_tasks_has_the_common_batch_size():
    found = steps(Curriculum({"b": 2, "c": 2}), own={"a": Sampling(batch_size=20)}, epochs=2)
    assert [len(batch) for step in found for batch in step.batches] == [20, 20, 10]
    found.plan.epoch_end(EpochReport())
    assert [len(batch) for step in found for batch in step.batches] == [8] * 6 + [2]


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
def test_a_joint_step_draws_each_tasks_own_rows_and_they_count_for_it_alone(cache_bytes):
    own = {"b": Sampling(batch_size=4), "c": Sampling(batch_size=10)}
    found = steps(Joint(draw="tasks"), own=own, cache_bytes=cache_bytes)
    # Until the rows of the task that takes longest have been drawn once: 50 by 8, in spite of 20 by 4 and 6 by 6.
    assert len(found) == 7
    numbers = values()
    for (batch,), *_ in found:
        assert len(batch) == 8 + 4 + 6
        assert {task: batch.count(task) for task in "abc"} == {"a": 8, "b": 4, "c": 6}
        assert [batch.labelled[task].tolist() for task in "abc"] == [
            list(range(8)),
            list(range(8, 12)),
            list(range(12, 18)),
        ]
        assert set(batch.rows[12:].tolist()) == set(range(6))
        for task in "ab":
            mine = batch.labelled[task]
            expected = numbers[task].to_numpy()[batch.rows[mine].numpy()]
            assert batch.targets[task][mine, 0].tolist() == expected.tolist()
            others = torch.ones(len(batch), dtype=torch.bool).index_fill(0, mine, False)
            assert not batch.masks[task][others].any()
            assert (batch.targets[task][others] == 0).all()


def test_each_task_passes_its_own_rows_again_and_again():
    found = steps(Joint(draw="tasks"), own={"b": Sampling(batch_size=4)})
    for task, rows in {"a": range(50), "b": range(30, 50), "c": range(6)}.items():
        drawn = [row for step in rows_of(found, task, epochs=6) for row in step]
        passes = len(drawn) // len(rows)
        assert passes >= 3
        for number in range(passes):
            assert sorted(drawn[number * len(rows) : (number + 1) * len(rows)]) == list(rows)
        found = steps(Joint(draw="tasks"), own={"b": Sampling(batch_size=4)})


def test_accumulated_batches_each_have_rows_of_every_task():
    found = steps(Joint(draw="tasks"), batches=3, length=4)
    for step in found:
        assert [{task: batch.count(task) for task in "abc"} for batch in step.batches] == [{"a": 8, "b": 8, "c": 6}] * 3
    assert len(found.plan) == 12


@pytest.mark.parametrize(
    "schedule",
    [partial(Joint, draw="tasks"), Alternating, partial(Alternating, order="random")],
    ids=["joint", "in turn", "random"],
)
def test_adding_a_task_leaves_the_rows_of_the_others(schedule):
    own = {"a": Sampling(batch_size=7, sampler=Weighted("w")), "b": Sampling(batch_size=3)}
    for task in "ab":
        both = (steps(schedule(), tasks=tasks, own=own, length=12) for tasks in (("a", "b"), ("a", "b", "z")))
        one, other = (rows_of(found, task, epochs=3) for found in both)
        assert len(one) >= len(other) > 3
        assert one[: len(other)] == other


@pytest.mark.parametrize(
    ("length", "expected"), [("rows", 7), ("largest", 7), ("smallest", 1), ("a", 7), ("b", 5), ("c", 1), (3, 3)]
)
def test_the_length_of_an_epoch_of_separate_draws(length, expected):
    found = steps(Joint(draw="tasks"), own={"b": Sampling(batch_size=4)}, length=length)
    assert len(found) == len(list(found)) == len(found.plan) == expected


def test_separate_draws_go_on_from_the_middle_of_an_epoch():
    def make():
        return steps(Joint(draw="tasks"), own={"c": Sampling(sampler=ClassBalanced())}, batches=2)

    whole = make()
    list(whole)
    whole.plan.epoch_end(EpochReport())
    expected = [[batch.rows.tolist() for batch in step.batches] for step in whole]
    whole.plan.done = 2
    again = make()
    again.plan.load_state_dict(whole.plan.state_dict())
    assert [[batch.rows.tolist() for batch in step.batches] for step in again] == expected[2:]


@pytest.mark.parametrize("schedule", [Joint(draw="tasks"), Alternating()], ids=["joint", "alternating"])
def test_a_task_has_a_sampler_of_its_own(schedule):
    found = steps(schedule, own={"c": Sampling(sampler=ClassBalanced())}, length=60)
    counts = np.bincount([row for step in rows_of(found, "c", epochs=20) for row in step], minlength=6)
    assert chisquare([counts[:4].sum(), counts[4:].sum()]).pvalue > 0.01
    shuffled = np.bincount([row for step in rows_of(found, "a", epochs=20) for row in step], minlength=50)
    assert shuffled.max() - shuffled.min() <= 2


def test_a_sampler_for_all_is_that_of_turns_of_several_tasks_too():
    found = steps(Joint(), sampler=Weighted("w"), length=100)
    drawn = np.concatenate([batch.rows.numpy() for step in found for batch in step.batches])
    assert set(drawn % 3) == {1, 2}
    assert chisquare([(drawn % 3 == 1).sum(), (drawn % 3 == 2).sum()], np.array([1, 2]) / 3 * len(drawn)).pvalue > 0.01


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (Joint(), {"sampler": ClassBalanced()}, "training.sampler: class_balanced evens out the classes of one task"),
        (
            Alternating(),
            {"own": {"a": Sampling(sampler=ClassBalanced())}},
            "training.tasks.a.sampler: class_balanced .* the task 'a' learns numbers. Allowed for it: shuffled",
        ),
        (
            Joint(draw="tasks"),
            {"own": {"c": Sampling(sampler=ByLength())}},
            "training.tasks.c.sampler: this sampler decides which rows are in a batch together, but with draw: tasks",
        ),
        (Alternating(), {"sampler": Weighted("v"), "length": 5}, "training.sampler: t.csv has no column 'v'"),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused_before_the_first_step(schedule, options, message):
    found = steps(schedule, **options)
    with pytest.raises(UserError, match=message):
        len(found)


def test_a_missing_weight_is_named_where_its_row_can_be_drawn():
    table = values()
    table["w"] = table["w"].astype(float)
    table.loc[[40, 55], "w"] = [np.nan, -1]
    steps(Alternating(), tasks=("c",), table=table, sampler=Weighted("w"))
    found = steps(Alternating(), tasks=("c", "b"), table=table, own={"b": Sampling(sampler=Weighted("w"))})
    with pytest.raises(UserError, match=r"training.tasks.b.sampler: t.csv, row 41, column 'w': .* is missing"):
        len(found)
