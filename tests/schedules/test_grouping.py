import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.schedules.grouping import grouped

FOUR = np.array([[1, 0.9, -0.5, 0.1], [0.9, 1, -0.3, -0.1], [-0.5, -0.3, 1, 0.2], [0.1, -0.1, 0.2, 1]])


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.95, [[0], [1], [2], [3]]),
        (0.9, [[0, 1], [2], [3]]),
        (0.1, [[0, 1], [2, 3]]),
        # Between the two groups: the mean of -0.5, -0.3, 0.1 and -0.1 is -0.2.
        (-0.2, [[0, 1, 2, 3]]),
    ],
)
def test_groups_are_merged_down_to_a_mean_cosine(threshold, expected):
    assert grouped(FOUR, number=None, threshold=threshold) == expected


@given(st.integers(1, 7), st.integers(0, 2**32 - 1), st.data())
def test_the_number_of_groups_is_as_asked_for_and_each_task_is_in_one(count, seed, data):
    number = data.draw(st.integers(1, count))
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = grouped(vectors @ vectors.T, number=number, threshold=0.0)
    assert len(found) == number
    assert sorted(task for group in found for task in group) == list(range(count))
    assert [group[0] for group in found] == sorted(group[0] for group in found)


def test_equally_close_tasks_still_make_the_number():
    assert len(grouped(np.zeros((4, 4)), number=3, threshold=0.0)) == 3
