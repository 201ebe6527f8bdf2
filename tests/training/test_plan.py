"""The plan of steps: whose turn it is, and the rows that it draws."""

import numpy as np
import pandas as pd
import pytest

from polytask.data.inputs import create as create_input
from polytask.data.preparation import Preparation
from polytask.data.samplers import ClassBalanced
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec
from polytask.schedules import Alternating, Curriculum, EpochReport, Hybrid, Joint, PretrainFinetune
from polytask.training.plan import Plan
from polytask.training.steps import Steps
from polytask.training.task_streams import Sampling

ROWS = 40


def prepared(tasks=("a", "b")):
    values = pd.DataFrame({"x": np.arange(ROWS), "a": np.where(np.arange(ROWS) < 30, 1.5, np.nan)})
    values["b"] = np.where(np.arange(ROWS) % 4 == 0, 2.5, np.nan)
    values["c"] = np.where(np.arange(ROWS) % 2 == 0, 0.5, np.nan)
    values.loc[values.index == 39, ["a", "b", "c"]] = np.nan
    table = Table.of(values)
    targets = {task: TargetSpec(kind="numbers", columns=(task,)) for task in tasks}
    inputs = {"row": create_input("tabular", columns=["x"])}
    return table, Preparation.fit(table, np.arange(ROWS), inputs, targets)


def steps(schedule, tasks=("a", "b"), length="rows", batches=1, batch_size=8, seed=0, epochs=1):
    table, preparation = prepared(tasks)

    def order(encoded):
        sizes = {"batch_size": batch_size, "batches": batches, "epochs": epochs, "length": length}
        return Plan(schedule, encoded, tasks, seed=seed, **sizes)

    loader = preparation.loader(table, batch_size=batch_size, training=True, seed=seed, order=order)
    return Steps(loader, loader.order)


def rows(found):
    return [[batch.rows.tolist() for batch in step.batches] for step in found]


def test_joint_steps_pass_through_every_labelled_row_once():
    found = steps(Joint(), batches=2, batch_size=7)
    drawn = list(found)
    assert len(drawn) == len(found) == 3
    assert [len(step.batches) for step in drawn] == [2, 2, 1]
    seen = sorted(row for step in rows(drawn) for batch in step for row in batch)
    assert seen == sorted({*range(30), *range(0, ROWS, 4)})


def test_a_turn_draws_rows_of_its_task_and_has_its_target_alone():
    found = list(steps(Alternating()))
    assert len(found) == 4 + 2
    for number, ((batch,), *_) in enumerate(found):
        task = "ab"[number % 2]
        assert list(batch.targets) == [task]
        assert batch.labelled[task] is None


def test_adding_a_task_leaves_the_rows_of_the_others():
    def of_task(found, task):
        return [batch.rows.tolist() for step in found for batch in step.batches if task in batch.targets]

    two, three = list(steps(Alternating())), list(steps(Alternating(), tasks=("a", "b", "c")))
    for task in "ab":
        both = zip(of_task(two, task), of_task(three, task), strict=False)
        assert all(one == other for one, other in both)


def test_adding_a_task_leaves_the_joint_order():
    def order(found):
        return [row for step in rows(found) for batch in step for row in batch]

    two, three = order(list(steps(Joint()))), order(list(steps(Joint(), tasks=("a", "b", "c"))))
    assert [row for row in three if row in set(two)] == two


@pytest.mark.parametrize(
    ("length", "expected"), [("rows", 6), ("largest", 8), ("smallest", 4), ("a", 8), ("b", 4), (5, 5)]
)
def test_the_length_of_an_epoch(length, expected):
    found = steps(Alternating(), length=length)
    assert len(found) == len(list(found)) == expected


def test_epochs_go_on_where_the_last_one_ended():
    found = steps(Alternating(), length=3)
    drawn = []
    for _ in range(4):
        drawn += rows(list(found))
        found.plan.epoch_end(EpochReport())
    of_b = [row for (batch,) in drawn[1::2] for row in batch]
    # Ten rows in batches of eight: each pass is complete before the next one begins.
    assert sorted(of_b[:10]) == sorted(of_b[10:20]) == list(range(0, ROWS, 4))
    assert of_b[:10] != of_b[10:20]


def test_a_plan_goes_on_from_the_middle_of_an_epoch():
    whole = steps(Alternating(order="random"), length=7)
    list(whole)
    whole.plan.epoch_end(EpochReport())
    expected = rows(list(whole))
    whole.plan.done = 3
    state = whole.plan.state_dict()
    again = steps(Alternating(order="random"), length=7)
    again.plan.load_state_dict(state)
    assert rows(list(again)) == expected[3:]
    assert len(again.plan) == 4


def test_a_task_without_rows_is_refused_where_it_has_a_turn_of_its_own():
    table, preparation = prepared()

    def order(encoded):
        return Plan(Alternating(), encoded, ("a", "b"), batch_size=2)

    loader = preparation.loader(table, np.array([1, 2, 3]), batch_size=2, training=True, order=order)
    with pytest.raises(UserError, match="No training row is labelled for 'b'"):
        len(loader)


def test_probes_have_rows_of_all_tasks_and_follow_from_the_epoch():
    found = steps(Hybrid("affinity", probes=3), batch_size=8)
    first = [batch.rows.tolist() for batch in found.plan.probes()]
    assert [len(rows) for rows in first] == [8, 8, 8]
    assert [batch.rows.tolist() for batch in found.plan.probes()] == first
    labelled = {*range(30), *range(0, ROWS, 4)}
    assert {row for rows in first for row in rows} <= labelled
    list(found)
    found.plan.epoch_end(EpochReport())
    second = [batch.rows.tolist() for batch in found.plan.probes()]
    # A pass of the labelled rows is complete before the next one begins.
    assert sorted(row for rows in (first + second)[:4] for row in rows) == sorted(labelled)
    assert list(steps(Joint()).plan.probes()) == []


def test_epochs_have_the_steps_of_the_tasks_that_are_there():
    found = steps(Curriculum({"b": 2}), batch_size=6, epochs=3)
    assert found.plan.expected_steps(3) == 5 + 6 + 6
    assert [found.plan.steps, found.plan.shares()] == [5, {"a": 1.0, "b": 0.0}]
    found.plan.epoch_end(EpochReport())
    assert [found.plan.steps, found.plan.shares()] == [6, {"a": 1.0, "b": 1.0}]
    assert len(list(found)) == 6


def test_shares_are_those_of_the_steps():
    assert steps(Alternating(), length=3).plan.shares() == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert steps(Joint()).plan.shares() == {}


def test_a_schedule_can_say_something_at_the_end(caplog):
    found = steps(Curriculum({"b": 3}), epochs=3)
    found.plan.epoch_end(EpochReport())
    found.plan.finish()
    assert "The task 'b' has never been trained: it was to start in epoch 3." in caplog.text


def test_a_group_has_the_rows_that_are_labelled_for_any_of_its_tasks():
    found = steps(Hybrid([["a", "b"], ["c"]], "proportional"), tasks=("a", "b", "c"))
    rows_of_both, rows_of_c = len({*range(30), *range(0, ROWS, 4)}), ROWS // 2
    expected = {("a", "b"): rows_of_both / (rows_of_both + rows_of_c), ("c",): rows_of_c / (rows_of_both + rows_of_c)}
    assert found.plan.schedule.pools(0) == pytest.approx(expected)


def test_an_epoch_without_a_turn_is_refused_before_the_training():
    schedule = Curriculum({"a": 2}, PretrainFinetune(["a"], epochs=1))
    found = steps(schedule, length=4, epochs=3)
    with pytest.raises(UserError, match="no turn in epoch 1"):
        found.plan.expected_steps(3)


def test_a_length_that_names_a_task_without_a_turn_is_refused():
    found = steps(Curriculum({"b": 2}), length="b", epochs=3)
    with pytest.raises(UserError, match="'b', but this task has no turn in epoch 1"):
        len(found)


OWN = {"b": Sampling(sampler=ClassBalanced())}


def planned(schedule, own=OWN, epochs=3):
    table, preparation = prepared(("a", "b", "c"))

    def order(encoded):
        return Plan(schedule, encoded, ("a", "b", "c"), batch_size=8, own=own, epochs=epochs)

    return preparation.loader(table, batch_size=8, training=True, order=order).order


@pytest.mark.parametrize(
    "schedule",
    [
        Joint(),
        Hybrid([["a", "b"], ["c"]]),
        Curriculum({"c": 2}),
        PretrainFinetune(["a"], 1, ["b", "c"]),
    ],
)
@pytest.mark.parametrize("own", [OWN, {"b": Sampling(batch_size=4)}])
def test_a_task_that_has_no_turn_of_its_own_cannot_have_a_sampler_of_its_own(schedule, own):
    key = "sampler" if own is OWN else "batch_size"
    with pytest.raises(UserError) as raised:
        planned(schedule, own)
    for part in (f"training.tasks.b.{key}", "'b' has no turn of its own", "draw: tasks"):
        assert part in str(raised.value)


def test_a_sampler_that_is_used_in_some_turns_only_is_worth_a_warning(caplog):
    planned(PretrainFinetune(["b"], 2, ["b", "c", "a"]), epochs=5)
    assert "training.tasks.b.sampler is not used from epoch 3 on" in caplog.text
    caplog.clear()
    planned(PretrainFinetune(["a", "b", "c"], 2, ["b"]), epochs=5)
    assert "training.tasks.b.sampler is not used up to epoch 2" in caplog.text
    caplog.clear()
    planned(Hybrid("affinity"))
    assert "training.tasks.b.sampler" in caplog.text and "unless it becomes a group of its own" in caplog.text
    caplog.clear()
    planned(Alternating(), {"b": Sampling(batch_size=4)})
    planned(Joint("tasks"), {"b": Sampling(batch_size=4)})
    planned(Hybrid([["a", "c"], ["b"]]), {"b": Sampling(batch_size=4)})
    assert "training.tasks" not in caplog.text
