"""What sources and tasks demand of each other."""

import pytest

from polytask.data.source import Source
from polytask.data.source_checks import check_class_names, check_tasks
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec


def source(name, key=None, **columns):
    return Source(name, {"train": Table.of(columns, f"{name}.csv")}, key)


def category(column, **options):
    return TargetSpec("category", (column,), **options)


A = source("a", text=["u", "v"], label=["pos", "neg"])


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        (
            {"t": category("lable")},
            ["no source has the column 'lable'", "Did you mean 'label'", "'a': 'text'"],
        ),
        ({"t": category("label"), "u": category("size", sources=("a",))}, ["Task 'u': none of its sources 'a' has"]),
        ({"t": category("label", sources=("a", "b"))}, ["names the source 'b', which has no column 'label'", "rename"]),
        (
            {"t": category("label")},
            ["The source 'b' labels no task", "Its columns: 'text', 'stars'"],
        ),
        (
            {"t": category("label"), "s": TargetSpec("numbers", ("stars", "absent"))},
            ["Task 's'", "the column 'absent'"],
        ),
    ],
)
def test_a_task_without_a_source_and_a_source_without_a_task_are_refused(targets, parts):
    with pytest.raises(UserError) as raised:
        check_tasks([A, source("b", text=["w"], stars=[1.0])], targets)
    for part in parts:
        assert part in str(raised.value)


def test_a_source_that_is_joined_with_one_that_labels_needs_no_labels():
    sources = [source("images", key="id", id=[1], x=[0.1]), source("labels", key="id", id=[1], label=["u"])]
    check_tasks(sources, {"t": category("label")})
    with pytest.raises(UserError, match="Each of the joined sources 'images', 'labels' labels no task"):
        check_tasks([*sources, A], {"t": category("label", sources=("a",))})


def test_columns_of_one_task_may_be_in_different_sources():
    check_tasks([source("a", x=[1.0]), source("b", y=[1.0])], {"t": TargetSpec("numbers", ("x", "y"))})


def test_classes_that_have_other_names_in_another_source_are_refused_with_both_sets():
    other = source("b", label=["positive", "negative", None])
    with pytest.raises(UserError) as raised:
        check_class_names([A, other], {"t": category("label")})
    for part in ("Task 't'", "'neg', 'pos' in the source 'a'", "'negative', 'positive' in 'b'", "rename", "`classes`"):
        assert part in str(raised.value)
    check_class_names([A, other], {"t": category("label", classes=("pos", "neg", "positive", "negative"))})
    check_class_names([A, other], {"t": category("label", sources=("a",))})


def test_classes_that_only_partly_agree_are_worth_a_warning(caplog):
    check_class_names([A, source("b", label=["pos", "negative"])], {"t": category("label")})
    assert "each has classes that the other has not" in caplog.text


@pytest.mark.parametrize("values", [["pos"], ["pos", "neg", "neutral"], [None, None]])
def test_a_source_with_fewer_classes_is_fine(values, caplog):
    check_class_names([A, source("b", label=values)], {"t": category("label")})
    assert not caplog.records


def test_numbers_are_compared_by_the_names_that_they_have_as_classes():
    check_class_names([source("a", y=[0, 1]), source("b", y=[1.0, 0.0])], {"t": category("y")})
    with pytest.raises(UserError, match="'0', '1' in the source 'a' and '2', '3' in 'b'"):
        check_class_names([source("a", y=[0, 1]), source("b", y=[2.0, 3.0])], {"t": category("y")})


def labels(column, **options):
    return TargetSpec("labels", (column,), **options)


@pytest.mark.parametrize(
    ("one", "other", "separator"),
    [
        ([["pos", "long"], []], [["positive"], None], "|"),
        (["pos|long", ""], ["positive", None], "|"),
        (["pos, long"], ["positive"], ","),
    ],
)
def test_names_of_several_labels_a_row_are_compared_too(one, other, separator, caplog):
    sources = [source("a", tags=one), source("b", tags=other)]
    with pytest.raises(UserError, match="'long', 'pos' in the source 'a' and 'positive' in 'b', with none in common"):
        check_class_names(sources, {"t": labels("tags", separator=separator)})
    known = ("pos", "long", "positive")
    check_class_names(sources, {"t": labels("tags", separator=separator, classes=known)})
    assert not caplog.records
    some = source("b", tags=[["pos", "short"]])
    check_class_names([sources[0], some], {"t": labels("tags", separator=separator)})
    assert "each has classes that the other has not" in caplog.text


@pytest.mark.parametrize("other", [{"tags": [False, True]}, {"tags": [[], []]}, {"tags": [["pos"]]}])
def test_yes_and_no_are_no_names_and_an_empty_list_has_none(other, caplog):
    check_class_names([source("a", tags=[["pos", "long"]]), source("b", **other)], {"t": labels("tags")})
    two = TargetSpec("labels", ("x", "y"))
    check_class_names([source("a", x=[True], y=[False]), source("b", x=[1], y=["no"])], {"t": two})
    assert not caplog.records


def test_rows_without_labels_may_be_a_source_of_their_own():
    sources = [A, source("more", text=["w"])]
    check_tasks(sources, {"t": category("label")}, unlabelled=True)
    with pytest.raises(UserError, match="The source 'more' labels no task.*training.tasks.NAME.unlabelled"):
        check_tasks(sources, {"t": category("label")})
