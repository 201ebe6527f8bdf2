"""What a checkpoint keeps, part by part."""

from polytask.training.checkpoint_parts import CheckpointParts


class Counter:
    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_each_part_goes_on_from_its_own_state():
    saved = CheckpointParts(one=Counter(1), other=Counter(2)).state_dict()
    one, other = Counter(), Counter()
    CheckpointParts(one=one, other=other).load_state_dict(saved)
    assert (one.value, other.value) == (1, 2)


def test_a_part_that_comes_after_the_checkpoint_was_read_goes_on_from_it():
    kept = CheckpointParts(one=Counter(1))
    kept.add("late", Counter(5))
    again, late = CheckpointParts(one=Counter()), Counter()
    again.load_state_dict(kept.state_dict())
    again.add("late", late)
    assert late.value == 5
    assert again.state_dict() == kept.state_dict()
    anew = Counter()
    again.add("late", anew)
    assert anew.value == 0, "a state is for one part"
