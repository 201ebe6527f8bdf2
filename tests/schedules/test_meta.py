import numpy as np
import pytest

from polytask.errors import UserError
from polytask.schedules import Curriculum, InnerLoop, Joint, Meta

ROWS = {"a": 1000, "b": 10}


def test_one_task_a_step_with_a_batch_for_each_inner_step():
    schedule = Meta(inner_steps=3, inner_lr=0.1, order="round_robin", consecutive=2)
    schedule.prepare(ROWS)
    assert schedule.turns(0, 5, np.random.default_rng(0)) == [("a",), ("a",), ("b",), ("b",), ("a",)]
    assert schedule.inner == InnerLoop(3, 0.1, query=False)
    assert schedule.inner.batches == 3


def test_fomaml_needs_a_batch_more():
    schedule = Meta("fomaml", inner_steps=1)
    schedule.prepare(ROWS)
    assert schedule.inner.query
    assert schedule.inner.batches == 2
    assert schedule.pools(0) == {("a",): 0.5, ("b",): 0.5}


def test_a_curriculum_has_the_inner_steps_of_the_schedule_within():
    assert Curriculum({"b": 2}, "meta").inner == Meta().inner
    assert Joint().inner is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"algorithm": "maml"}, "algorithm is 'maml'. Allowed: 'reptile', 'fomaml'"),
        ({"inner_steps": 0}, "inner_steps is 0"),
        ({"inner_lr": 0.0}, "inner_lr is 0"),
    ],
)
def test_what_cannot_be_is_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        Meta(**parameters)
