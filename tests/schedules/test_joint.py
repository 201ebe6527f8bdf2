import numpy as np

from polytask import schedules


def test_every_step_is_for_all_tasks():
    schedule = schedules.create("joint")
    schedule.prepare({"a": 10, "b": 0})
    assert schedule.turns(3, 4, np.random.default_rng(0)) == [("a", "b")] * 4
    assert schedule.pools(0) == {("a", "b"): 1.0}
    assert schedule.state_dict() == {}
