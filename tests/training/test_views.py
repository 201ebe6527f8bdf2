"""Rows that lack labels: which of them a step has, and its two views of each."""

import io
import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from polytask.data.batch import Batch
from polytask.data.inputs import create as create_input
from polytask.data.preparation import Preparation
from polytask.data.request import Share
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec
from polytask.schedules import Alternating, EpochReport, Hybrid, Joint
from polytask.training.plan import Plan
from polytask.training.steps import Steps
from polytask.training.views import Views

ROWS = 40
A, B, C = set(range(30)), set(range(0, ROWS, 4)), set(range(ROWS))
"""The rows that are labelled for a, for b, and for c."""


def columns():
    found = pd.DataFrame({"x": np.arange(float(ROWS)), "a": 1.5, "b": 2.5, "c": 0.5})
    for task, rows in {"a": A, "b": B, "c": C}.items():
        found.loc[~found.index.isin(rows), task] = np.nan
    return found


def steps(
    schedule=None,
    unlabelled=("a",),
    *,
    tasks=("a", "b"),
    table=None,
    inputs=None,
    share=Share(),  # noqa: B008
    cache_bytes=2**30,
    workers=0,
    **options,
):
    table = table or Table.of(columns())
    targets = {task: TargetSpec(kind="numbers", columns=(task,)) for task in tasks}
    inputs = inputs or {"row": create_input("tabular", columns=["x"])}
    preparation = Preparation.fit(table, np.arange(ROWS), inputs, targets)
    options = {"batch_size": 8, "seed": 0, "epochs": 3, **options}

    def order(encoded):
        return Plan(schedule or Joint(), encoded, tasks, unlabelled=unlabelled, **options)

    loader = preparation.loader(
        table,
        batch_size=8,
        training=True,
        seed=0,
        order=order,
        share=share,
        cache_bytes=cache_bytes,
        workers=workers,
    )
    return Steps(loader, loader.order)


def rows_of(views, task):
    """The rows of views that lack a label for a task."""
    own = views.rows[task]
    return (views.other.rows if own is None else views.other.rows[own]).tolist()


def epochs(found, count):
    for _ in range(count):
        yield list(found)
        found.plan.epoch_end(EpochReport())


def seen(found, count=1):
    """For each step, the rows of its batches and of its views."""
    return [
        ([batch.rows.tolist() for batch in step.batches], step.views and step.views.other.rows.tolist())
        for epoch in epochs(found, count)
        for step in epoch
    ]


def test_a_step_has_rows_without_the_tasks_label_those_without_any_among_them():
    drawn = []
    for batches, views, *_ in steps(unlabelled_batch_size=3):
        assert len(views) <= 3
        assert list(views.rows) == ["a"]
        assert views.reference.rows.tolist() == views.other.rows.tolist()
        assert not views.reference.labelled and not views.other.targets
        assert all(batch.labelled.keys() == {"a", "b"} for batch in batches)
        assert views.entries == {"a": len(views)} and views.missing == {"a": None} and views.rows == {"a": None}
        drawn += views.other.rows.tolist()
    # A pass goes through all of them, among them rows 30, 31 and so on that are labelled for nothing.
    assert set(drawn[:10]) == set(range(ROWS)) - A


def test_rows_count_for_the_tasks_whose_labels_they_lack():
    found = steps(unlabelled=("a", "b"))
    passed = {"a": [], "b": []}
    for _, views, *_ in list(found)[:4]:  # 32 rows by 8
        for task in passed:
            if task in views.rows:
                passed[task] += rows_of(views, task)
                assert views.entries[task] == len(rows_of(views, task))
    assert set(passed["a"]) <= set(range(ROWS)) - A and len(passed["a"]) > 0
    assert set(passed["b"]) <= set(range(ROWS)) - B and len(passed["b"]) > 15


def test_the_batches_of_a_step_are_as_they_are_without():
    for schedule in (Joint, Joint(draw="tasks"), Alternating, Alternating(order="random")):
        made = [schedule if isinstance(schedule, Joint | Alternating) else schedule() for _ in range(2)]
        options = {"batches": 2, "batch_size": 4}
        without, with_views = (
            steps(schedule, tasks, **options) for schedule, tasks in zip(made, ((), ("a", "b")), strict=True)
        )
        one, other = ([batches for batches, *_ in seen(found, 3)] for found in (without, with_views))
        assert one == other


def test_another_task_that_learns_so_leaves_the_order():
    def order(found):
        return [row for _, views, *_ in seen(found, 3) for row in views]

    one, two = order(steps(unlabelled=("a",))), order(steps(unlabelled=("a", "b")))
    lacking = set(range(ROWS)) - A
    first = [row for row in two[:32] if row in lacking]
    assert first == one[: len(lacking)]


def test_a_turn_has_the_rows_of_its_own_tasks():
    found = list(steps(Alternating(), unlabelled=("b",)))
    for number, (batches, views, *_) in enumerate(found):
        assert (views is None) == ("b" not in batches[0].labelled) == (number % 2 == 0)
        if views is not None:
            assert set(rows_of(views, "b")) <= set(range(ROWS)) - B
            assert len(views) == len(rows_of(views, "b")) == 8
    group = steps(Hybrid([["a", "b"], ["c"]]), ("a", "c"), tasks=("a", "b", "c"), table=without_one())
    kinds = {(views and tuple(views.rows)) for _, views, *_ in group}
    assert kinds == {("a",), ("c",)}


def without_one():
    """The table, with a row that has no label for c."""
    values = columns()
    values.loc[5, "c"] = np.nan
    return Table.of(values)


@pytest.mark.parametrize("schedule", [Joint, Alternating, lambda: Alternating(order="random")])
def test_a_plan_goes_on_from_the_middle_of_an_epoch(schedule):
    options = {"unlabelled": ("a", "b"), "length": 7, "unlabelled_batch_size": 3}
    whole = steps(schedule(), **options)
    list(epochs(whole, 2))
    expected = seen(steps(schedule(), **options), 3)[14:]
    whole.plan.done = 3
    again = steps(schedule(), **options)
    again.plan.load_state_dict(whole.plan.state_dict())
    left = len(again.plan)
    assert seen(again) == expected[3:]
    assert left == sum(len(batches) + 2 * (views is not None) for batches, views, *_ in expected[3:])


def test_tasks_that_have_stopped_have_no_views():
    found = steps(Alternating(), unlabelled=("a",), length=6)
    found.plan.stopped = {"a"}
    assert all(views is None for _, views, *_ in found)
    both = steps(unlabelled=("a", "b"))
    both.plan.stopped = {"a"}
    (_, views, *_), *_ = both
    assert views.without({"a"}).rows.keys() == views.without({"a"}).entries.keys() == {"b"}


def test_every_row_labelled_is_refused():
    found = steps(tasks=("a", "c"), unlabelled=("a", "c"))
    with pytest.raises(UserError, match=r"^training.tasks.c.unlabelled is for rows without a label, but every"):
        len(found)


def test_the_log_says_what_becomes_of_rows_without_any_label(caplog):
    caplog.set_level(logging.INFO, logger="polytask")
    steps(unlabelled=("a", "b"))
    assert "8 training rows are labelled for no task: they serve as unlabelled rows for 'a', 'b'." in caplog.text
    steps(unlabelled=())
    assert "8 training rows are labelled for no task: they are left out." in caplog.text


def test_single_labels_of_several_can_be_missing():
    values = pd.DataFrame({"x": np.arange(6.0), "u": [1, 1, 0, np.nan, np.nan, 0], "v": [0, np.nan, 0, 1, np.nan, 1]})
    table = Table.of(values)
    targets = {"tags": TargetSpec(kind="labels", columns=("u", "v"), classes=("u", "v"))}
    inputs = {"row": create_input("tabular", columns=["x"])}
    preparation = Preparation.fit(table, np.arange(6), inputs, targets)
    loader = preparation.loader(
        table,
        batch_size=8,
        training=True,
        order=lambda encoded: Plan(Joint(), encoded, ("tags",), batch_size=8, unlabelled=("tags",)),
    )
    ((_, views, *_),) = Steps(loader, loader.order)
    assert sorted(rows_of(views, "tags")) == [1, 3, 4]
    by_row = dict(zip(views.other.rows.tolist(), views.missing["tags"].tolist(), strict=True))
    assert by_row == {1: [False, True], 3: [True, False], 4: [True, True]}
    assert views.entries == {"tags": 4}


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def images(**augmentation):
    draw = np.random.default_rng(0)
    pictures = draw.integers(1, 255, (ROWS, 6, 6), dtype=np.uint8)
    values = columns()
    values["x"] = np.arange(ROWS).astype(str)
    table = pa.Table.from_pandas(values[["a", "b", "c"]]).append_column(
        "image", pa.array([png(picture) for picture in pictures], pa.binary())
    )
    return {
        "table": Table.from_arrow(table, source="pictures"),
        "inputs": {"image": create_input("image", channels=1, normalize=[[0.0], [1.0]], **augmentation)},
    }


def test_the_views_are_augmented_in_two_ways_and_anew_in_each_pass():
    found = steps(unlabelled_batch_size=10, length=2, **images(crop=2))
    views = [views for _, views, *_ in found]
    assert not any(torch.equal(view.reference.inputs["image"], view.other.inputs["image"]) for view in views)
    by_row = [dict(zip(view.other.rows.tolist(), view.other.inputs["image"], strict=True)) for view in views]
    assert by_row[0].keys() == by_row[1].keys()
    assert any(not torch.equal(by_row[0][row], by_row[1][row]) for row in by_row[0])
    again = [views for _, views, *_ in steps(unlabelled_batch_size=10, length=2, **images(crop=2))]
    for before, after in zip(views, again, strict=True):
        assert torch.equal(before.reference.inputs["image"], after.reference.inputs["image"])
        assert torch.equal(before.other.inputs["image"], after.other.inputs["image"])


def test_the_reference_is_changed_gently():
    pytest.importorskip("torchvision")
    (_, views, *_), *_ = steps(unlabelled_batch_size=10, **images(color=1.0))
    (_, plain, *_), *_ = steps(unlabelled_batch_size=10, **images())
    assert torch.equal(views.reference.inputs["image"], plain.reference.inputs["image"])
    assert torch.equal(plain.reference.inputs["image"], plain.other.inputs["image"])
    assert not torch.equal(views.other.inputs["image"], plain.other.inputs["image"])


def test_workers_make_the_same_views():
    options = {"unlabelled": ("a", "b"), "unlabelled_batch_size": 5, "cache_bytes": 0}
    alone, helped = (list(steps(workers=workers, **options, **images(crop=2))) for workers in (0, 2))
    for (_, one, *_), (_, other, *_) in zip(alone, helped, strict=True):
        assert torch.equal(one.reference.inputs["image"], other.reference.inputs["image"])
        assert torch.equal(one.other.inputs["image"], other.other.inputs["image"])
        assert one.entries == other.entries


def test_empty_texts_are_counted_once(caplog):
    caplog.set_level(logging.INFO, logger="polytask")
    values = columns()
    values["text"] = np.where(np.arange(ROWS) % 2, "some words", "")
    found = steps(
        unlabelled=("a", "b"),
        table=Table.of(values),
        inputs={"text": create_input("text", column="text", tokenizer="words", buckets=9)},
        cache_bytes=0,
    )
    assert all(views is not None for _, views, *_ in list(found))
    # Row 30 and those after it that are labelled for nothing are read for views alone.
    assert f"{len([row for row in A | B if row % 2 == 0])} of 40 rows have an empty text" in caplog.text


def test_processes_have_their_parts_of_the_views():
    whole = [views.other.rows.tolist() for _, views, *_ in steps(unlabelled_batch_size=3)]
    parts = [
        [views.other.rows.tolist() for _, views, *_ in steps(unlabelled_batch_size=3, share=Share(rank, 4))]
        for rank in range(4)
    ]
    for rows, *own in zip(whole, *parts, strict=True):
        assert [rows[rank::4] for rank in range(4)] == own
    # The fourth process never has a row, but it has views: it has to take part.
    assert not any(parts[3])


def test_rows_that_only_one_view_has_are_left_out():
    inputs = torch.arange(4.0)
    mask = torch.tensor([True, False, False, True])

    def batch(rows):
        return Batch.of({"x": inputs[rows]}, {"a": torch.zeros(4)[rows]}, {"a": mask[rows]}, torch.tensor(rows))

    views = Views.of(batch([0, 1, 2]), batch([1, 2, 3]))
    assert views.reference.rows.tolist() == views.other.rows.tolist() == [1, 2]
    assert views.reference.inputs["x"].tolist() == views.other.inputs["x"].tolist() == [1, 2]
    assert views.entries == {"a": 2}
    none = Views.of(batch([0]), batch([0]))
    assert (len(none), none.rows, none.entries) == (1, {}, {})
    moved = views.to("meta")
    assert moved.other.rows.device.type == moved.reference.inputs["x"].device.type == "meta"
