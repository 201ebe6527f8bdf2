import numpy as np
import pytest

from polytask.errors import UserError
from polytask.schedules import Freeze, PretrainFinetune

ROWS = {"a": 1000, "b": 100, "c": 10}


def prepared(pretrain, epochs=2, **parameters):
    schedule = PretrainFinetune(pretrain, epochs, **parameters)
    schedule.prepare(ROWS, epochs=4)
    return schedule


def turns(schedule):
    found = []
    for epoch in range(4):
        (turn,) = set(schedule.turns(epoch, 3, np.random.default_rng(0)))
        assert schedule.pools(epoch) == {turn: 1}
        found.append(turn)
    return found


def test_first_some_tasks_then_the_others():
    assert turns(prepared(["c", "a"])) == [("a", "c"), ("a", "c"), ("b",), ("b",)]


def test_a_task_can_be_in_both_phases():
    assert turns(prepared(["a", "b"], 1, finetune=["c", "b"])) == [("a", "b"), ("b", "c"), ("b", "c"), ("b", "c")]


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [(None, ()), (False, ()), (True, (Freeze(True, 2, None),)), ("layer2", (Freeze("layer2", 2, None),))],
)
def test_the_encoder_can_be_frozen_in_the_second_phase(freeze, expected):
    assert prepared(["a"], freeze=freeze).freezes == expected


@pytest.mark.parametrize(
    ("pretrain", "parameters", "message"),
    [
        ([], {}, "pretrain has no task"),
        (["d"], {}, "pretrain names no task 'd'"),
        (["a"], {"finetune": ["bb", "c"]}, "finetune names no task 'bb'. Did you mean 'b'"),
        (["a"], {"finetune": ["b"]}, "neither pretrain nor finetune has 'c', which would never be trained"),
        (["a"], {"finetune": []}, "finetune has no task"),
        (["a", "b", "c"], {}, "Nothing is left to fine-tune"),
        (["a"], {"epochs": 0}, "epochs is 0"),
        (["a"], {"epochs": 4}, "epochs is 4, but training.epochs is 4: nothing is left for the second phase"),
    ],
)
def test_what_cannot_be_is_refused(pretrain, parameters, message):
    with pytest.raises(UserError, match=message):
        prepared(pretrain, **parameters)
