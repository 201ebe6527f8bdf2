"""How many steps an epoch has."""

import pytest

from polytask.errors import UserError
from polytask.training.epoch_length import steps_of_epoch
from polytask.training.task_streams import Pass

A, B, BOTH = ("a",), ("b",), ("a", "b")
PASSES = {A: [Pass(A, 30, 4)], B: [Pass(B, 10, 2)], BOTH: [Pass(A, 30, 4), Pass(B, 10, 1)]}
TURNS = {A: 0.5, B: 0.5}


def steps(length, pools=TURNS, tasks=BOTH):
    return steps_of_epoch(length, 0, pools, PASSES.__getitem__, tasks)


@pytest.mark.parametrize(
    ("length", "expected"), [("rows", 6), ("largest", 8), ("smallest", 4), ("a", 8), ("b", 4), (5, 5)]
)
def test_the_length_of_an_epoch_of_turns(length, expected):
    assert steps(length) == expected


@pytest.mark.parametrize(("length", "expected"), [("rows", 4), ("largest", 4), ("smallest", 1), ("a", 4), ("b", 1)])
def test_the_length_where_a_turn_draws_its_tasks_rows_apart(length, expected):
    assert steps(length, {BOTH: 1.0}) == expected


def test_a_turn_without_a_share_is_no_measure():
    pools = {A: 1.0, B: 0.0}
    assert steps("smallest", pools) == 4
    assert steps("rows", pools) == 6, "but it may come, and then has its rows"


def test_a_number_asks_for_no_rows():
    def passes(turn):
        raise UserError("There is no row.")

    assert steps_of_epoch(3, 0, TURNS, passes, BOTH) == 3


def test_a_length_that_names_no_task_is_refused():
    with pytest.raises(UserError, match=r"training.epoch_length is 'aa', which is no task. Did you mean 'a'"):
        steps("aa")


def test_a_length_that_names_a_task_without_a_turn_is_refused():
    with pytest.raises(UserError, match="'b', but this task has no turn in epoch 1"):
        steps("b", {A: 1.0})


def test_an_epoch_without_a_turn_is_refused():
    with pytest.raises(UserError, match="no turn in epoch 1"):
        steps(4, {})
