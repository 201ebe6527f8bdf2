import pytest
import torch

from polytask.balancing.weighting import Held, Weighting
from polytask.errors import UserError


def weights(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_by_default_weights_stay_as_they_are():
    assert Weighting().apply(weights(1, -3), ("a", "b")).tolist() == [1, -3]


@pytest.mark.parametrize(("normalize", "expected"), [("sum_to_one", [0.25, -0.75]), ("sum_to_k", [0.5, -1.5])])
def test_the_absolute_values_sum_to_what_was_asked_for(normalize, expected):
    assert Weighting(normalize).apply(weights(1, -3), ("a", "b")).tolist() == expected


def test_weights_of_zero_stay_zero():
    assert Weighting("sum_to_k").apply(weights(0, 0), ("a", "b")).tolist() == [0, 0]


def test_smoothing_starts_with_the_first_weights_of_each_task_and_keeps_a_share_of_the_old_ones():
    smooth = Weighting(smoothing=0.75)
    assert smooth.apply(weights(1, 2), ("a", "b")).tolist() == [1, 2]
    assert smooth.apply(weights(5, 8), ("a", "c")).tolist() == [2, 8]
    assert smooth.apply(weights(6, 2), ("b", "a")).tolist() == [3, 2]


def test_smoothing_goes_on_after_saving_and_loading():
    before, after = Weighting(smoothing=0.5), Weighting(smoothing=0.5)
    before.apply(weights(1, 2), ("a", "b"))
    after.load_state_dict(before.state_dict())
    assert after.apply(weights(3, 4), ("a", "b")).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("options", "message"), [({"normalize": "one"}, "normalize is 'one'"), ({"smoothing": 1.0}, "smoothing is 1")]
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Weighting(**options)


def test_weights_hold_for_some_steps():
    held = Held(3)
    found = []
    for step in range(7):
        old = held.weights(("a", "b"))
        found.append(None if old is None else old.tolist())
        if old is None:
            held.keep(("a", "b"), weights(step, 10 + step))
    assert found == [None, [0, 10], [0, 10], None, [3, 13], [3, 13], None]


def test_a_task_without_weights_asks_for_new_ones_and_the_count_starts_again():
    held = Held(3)
    assert held.weights(("a",)) is None
    held.keep(("a",), weights(1))
    assert held.weights(("b", "a")) is None
    held.keep(("b", "a"), weights(5, 6))
    assert held.weights(("a",)).tolist() == [6]
    assert held.weights(("b",)).tolist() == [5]
    assert held.weights(("a",)) is None


def test_held_weights_survive_saving_and_loading():
    before, after = Held(3), Held(3)
    before.weights(("a",))
    before.keep(("a",), weights(4))
    after.load_state_dict(before.state_dict())
    assert [after.weights(("a",)).item(), after.weights(("a",)).item(), after.weights(("a",))] == [4, 4, None]
