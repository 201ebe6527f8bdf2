from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing import Annealed
from polytask.errors import UserError


def weights(balancer, *tasks):
    """What a step's weights are, by the gradients that they make."""
    thetas = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in tasks)
    balancer.backward({task: (theta + 1).sum() for task, theta in zip(tasks, thetas, strict=True)})
    return [theta.grad.item() for theta in thetas]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"steps": 4}, [1, 0.75, 0.5, 0.25, 0, 0]),
        ({"steps": 2, "start": 0.5, "end": 2.0}, [0.5, 1.25, 2, 2]),
        ({"steps": 4, "curve": "cosine"}, [1, 0.853553, 0.5, 0.146447, 0, 0]),
        ({"steps": 3, "curve": "exponential", "start": 8.0, "end": 1.0}, [8, 4, 2, 1, 1]),
        ({"steps": 1, "start": 0.3, "end": 0.1}, [0.3, 0.1, 0.1]),
    ],
)
def test_the_weights_follow_the_hand_worked_sequence(parameters, expected):
    balancer = Annealed("main", **parameters)
    for weight in expected:
        assert weights(balancer, "aux", "main") == pytest.approx([weight, 1], abs=1e-6)
        assert balancer.last.weight_values.tolist() == pytest.approx([weight, 1], abs=1e-6)


def test_epochs_are_counted_where_they_are_given():
    balancer = Annealed("main", epochs=2)
    for epoch, weight in enumerate([1.0, 0.5, 0.0, 0.0]):
        for _ in range(epoch + 2):
            assert weights(balancer, "main", "aux") == [1, weight]
        balancer.epoch_end()


def test_with_steps_an_epoch_is_nothing_and_several_tasks_can_be_the_main_ones():
    balancer = Annealed(["m", "n"], steps=2)
    assert weights(balancer, "m", "a", "n", "b") == [1, 1, 1, 1]
    balancer.epoch_end()
    assert weights(balancer, "b", "m", "n") == [0.5, 1, 1]


def test_steps_without_a_main_task_count_where_the_tasks_are_known():
    balancer = Annealed("main", steps=2)
    balancer.prepare(["main", "a"])
    assert [weights(balancer, "a") for _ in range(3)] == [[1], [0.5], [0]]
    with pytest.raises(UserError, match="annealed: none of the main tasks"):
        weights(Annealed("main", steps=2), "a")


@settings(max_examples=50, deadline=None)
@given(
    start=st.floats(0.01, 10),
    end=st.floats(0.01, 10),
    length=st.integers(1, 30),
    curve=st.sampled_from(["linear", "cosine", "exponential"]),
)
def test_the_way_goes_from_the_start_to_the_end_and_never_back(start, end, length, curve):
    balancer = Annealed("main", start, end, steps=length, curve=curve)
    found = [weights(balancer, "main", "aux")[1] for _ in range(length + 2)]
    assert found[0] == pytest.approx(start, rel=1e-5)
    assert found[-2:] == pytest.approx([end, end], rel=1e-5)
    direction = 1 if end >= start else -1
    assert all(direction * (b - a) >= -1e-5 * (a + b) for a, b in pairwise(found))


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    first, second, whole = (Annealed("main", steps=7, curve="cosine") for _ in range(3))
    expected = [weights(whole, "main", "a") for _ in range(9)]
    for _ in range(4):
        weights(first, "main", "a")
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [weights(second, "main", "a") for _ in range(5)] == expected[4:]


def test_weights_can_be_normalised():
    balancer = Annealed("main", end=1.0, start=3.0, steps=1, normalize="sum_to_one")
    assert weights(balancer, "main", "a") == [0.25, 0.75]
    assert weights(balancer, "main", "a") == [0.5, 0.5]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "give either steps or epochs"),
        ({"steps": 3, "epochs": 3}, "give either steps or epochs"),
        ({"steps": 0}, "steps is 0, but must be at least 1"),
        ({"epochs": -1}, "epochs is -1, but must be at least 1"),
        ({"steps": 3, "start": -1.0}, "start is -1.0, but must be a number of at least 0"),
        ({"steps": 3, "end": float("inf")}, "end is inf"),
        ({"steps": 3, "curve": "exponential"}, "end is 0, which no exponential reaches"),
        ({"steps": 3, "curve": "stairs"}, "curve is 'stairs'"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        Annealed("main", **parameters)


def test_a_main_task_that_is_no_task_is_refused():
    with pytest.raises(UserError, match="annealed: the main task 'main' is no task"):
        Annealed("main", steps=1).prepare(["a", "b"])
