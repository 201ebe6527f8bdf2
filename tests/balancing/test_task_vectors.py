import copy

import pytest
import torch

from polytask.balancing.task_vectors import TaskVectors
from polytask.errors import UserError

YES, NO = torch.tensor(True), torch.tensor(False)


def made(*tasks, columns=3, dtype=torch.float64):
    vectors = TaskVectors("moco", ["gradient"])
    vectors.add(tasks, torch.zeros(len(tasks), columns, dtype=dtype))
    return vectors


def test_averages_follow_their_targets_from_zero():
    vectors = made("a", "b")
    targets, rates = torch.tensor([[1.0, 2, 4], [8, 0, -8]]).double(), torch.tensor([0.5, 0.25])
    assert vectors.follow("gradient", ["a", "b"], targets, rates, YES).tolist() == [[0.5, 1, 2], [2, 0, -2]]
    found = vectors.follow("gradient", ["a", "b"], targets, rates, YES)
    assert found.tolist() == [[0.75, 1.5, 3], [3.5, 0, -3.5]]
    assert vectors.read("gradient", ["a", "b"]).tolist() == found.tolist()


def test_absent_tasks_stay_new_ones_join_and_order_does_not_matter():
    vectors = made("a", "b")
    half = torch.full((2,), 0.5)
    vectors.follow("gradient", ["b", "a"], torch.tensor([[2.0] * 3, [4] * 3]).double(), half, YES)
    targets = torch.tensor([[8.0] * 3, [0] * 3]).double()
    vectors.add(["new", "a"], targets)
    found = vectors.follow("gradient", ["new", "a"], targets, half, YES)
    assert found.tolist() == [[4] * 3, [1] * 3]
    assert vectors.tasks == ("a", "b", "new")
    assert vectors.read("gradient", ["b", "new", "a"]).tolist() == [[1] * 3, [4] * 3, [1] * 3]


def test_what_is_not_valid_is_not_taken_in():
    vectors = made("a")
    vectors.follow("gradient", ["a"], torch.ones(1, 3).double(), torch.tensor([0.5]), YES)
    vectors.follow("gradient", ["a"], torch.full((1, 3), torch.nan).double(), torch.tensor([0.5]), NO)
    assert vectors.read("gradient", ["a"]).tolist() == [[0.5] * 3]


def test_another_number_of_columns_is_refused_and_changes_nothing():
    vectors = made("a")
    with pytest.raises(UserError, match=r"moco: the shared parameters were 3 numbers so far, and are 2.*`shared=`"):
        vectors.add(["b"], torch.zeros(1, 2))
    assert vectors.tasks == ("a",)
    assert vectors.read("gradient", ["a"]).shape == (1, 3)


def test_the_type_is_that_of_the_gradients():
    vectors = made("a", dtype=torch.float32)
    vectors.follow("gradient", ["a"], torch.ones(1, 3), torch.tensor([0.5]), YES)
    vectors.add(["a"], torch.zeros(1, 3, dtype=torch.float64))
    assert vectors.read("gradient", ["a"]).dtype == torch.float64
    assert vectors.read("gradient", ["a"]).tolist() == [[0.5] * 3]


def test_a_state_is_loaded_without_preparation_and_in_place_of_another(tmp_path):
    vectors = made("a", "type", "x.y")
    vectors.follow("gradient", ["x.y"], torch.ones(1, 3).double(), torch.tensor([1.0]), YES)
    torch.save(vectors.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for fresh in (TaskVectors("moco", ["gradient"]), made("other", columns=7)):
        fresh.load_state_dict(state)
        assert fresh.tasks == ("a", "type", "x.y")
        assert fresh.read("gradient", ["x.y", "a"]).tolist() == [[1] * 3, [0] * 3]
    fresh = made("other")
    fresh.load_state_dict(TaskVectors("moco", ["gradient"]).state_dict())
    assert fresh.tasks == ()
    fresh.add(["a"], torch.zeros(1, 5))
    assert copy.deepcopy(fresh).read("gradient", ["a"]).shape == (1, 5)
