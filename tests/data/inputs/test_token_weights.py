import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.encoded import Ragged
from polytask.data.inputs.token_weights import TokenCounts, TokenWeights, distinct, from_text, to_text

# Texts over the ids 1 to 3; 0 is padding.
TEXTS = [[1, 2], [1, 3], [1, 2, 3], [2]]


def _counted(texts, labels=None, classes=None, parts=1):
    counts = TokenCounts(4, classes or {})
    labels = labels or {}
    for rows in np.array_split(np.arange(len(texts)), parts):
        found = {}
        for task, values in labels.items():
            chosen = [values[row] for row in rows]
            places = np.array([0 if value is None else value for value in chosen], dtype=np.int64)
            found[task] = (places, np.array([value is not None for value in chosen], dtype=bool))
        counts.add(Ragged.of([texts[row] for row in rows]), found)
    return counts


def _log_ratio(counts):
    return counts.weights(["log_ratio"], unweighted=[0]).table[:, 0]


def test_idf_is_the_log_of_texts_over_texts_with_the_token():
    table = _counted(TEXTS).weights(["idf"], unweighted=[0]).table
    np.testing.assert_allclose(table[:, 0], [0, math.log(4 / 3), math.log(4 / 3), math.log(4 / 2)], rtol=1e-6)


def test_log_ratio_of_two_classes_is_the_absolute_log_count_ratio():
    found = _log_ratio(_counted(TEXTS, {"t": [1, 0, 1, None]}, {"t": ("bad", "good")}))
    good, bad = np.array([1, 3, 3, 2]), np.array([1, 2, 1, 2])  # one more than the texts of the class with each id
    expected = np.abs(np.log(good / good.sum() / (bad / bad.sum())))
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-6)


def test_log_ratio_of_three_classes_is_the_root_mean_square_of_one_against_the_others():
    found = _log_ratio(_counted(TEXTS, {"t": [0, 1, 2, 2]}, {"t": ("a", "b", "c")}))
    counts = np.array([[0, 1, 1, 0], [0, 1, 0, 1], [0, 1, 2, 1]])
    squares = []
    for one in range(3):
        inside, outside = counts[one] + 1, np.delete(counts, one, axis=0).sum(0) + 1
        squares.append(np.log(inside / inside.sum() / (outside / outside.sum())) ** 2)
    np.testing.assert_allclose(found[1:], np.sqrt(np.mean(squares, axis=0))[1:], rtol=1e-6)


def test_tasks_with_the_same_class_names_are_counted_as_one():
    apart = {"one": [0, 1, None, None], "two": [None, None, 0, 1]}
    # The second task has its classes in another order.
    found = _log_ratio(_counted(TEXTS, apart, {"one": ("bad", "good"), "two": ("good", "bad")}))
    np.testing.assert_allclose(found, _log_ratio(_counted(TEXTS, {"t": [0, 1, 1, 0]}, {"t": ("bad", "good")})))


def test_sets_of_class_names_are_combined_by_the_root_mean_square():
    first, second = {"one": [0, 1, 1, 0]}, {"two": [0, 0, 1, 2]}
    classes = {"one": ("bad", "good"), "two": ("x", "y", "z")}
    apart = [
        _log_ratio(_counted(TEXTS, labels, {task: classes[task] for task in labels})) for labels in (first, second)
    ]
    both = _log_ratio(_counted(TEXTS, first | second, classes))
    np.testing.assert_allclose(both, np.sqrt(np.mean(np.square(apart), axis=0)), rtol=1e-6)


def test_a_token_that_all_classes_have_alike_says_less_than_one_that_tells_them_apart():
    found = _log_ratio(_counted([[1, 2], [1, 3], [1, 2], [1, 3]], {"t": [0, 1, 0, 1]}, {"t": ("a", "b")}))
    assert found[1] < 0.1 < min(found[2:])


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.sets(st.integers(1, 3), min_size=1).map(sorted), min_size=1, max_size=7),
    parts=st.integers(1, 4),
    data=st.data(),
)
def test_weights_do_not_depend_on_the_parts_and_have_length_one_in_each_text(texts, parts, data):
    labels = {"t": data.draw(st.lists(st.sampled_from([0, 1, None]), min_size=len(texts), max_size=len(texts)))}
    wanted = ["idf", "log_ratio"]
    weights = _counted(texts, labels, {"t": ("a", "b")}, parts=parts).weights(wanted, unweighted=[0])
    whole = _counted(texts, labels, {"t": ("a", "b")}).weights(wanted, unweighted=[0])
    np.testing.assert_array_equal(weights.table, whole.table)
    found = weights.of(Ragged.of(texts))
    assert found.dtype == np.float32
    for values, text in zip(np.split(found, np.cumsum([len(text) for text in texts])[:-1]), texts, strict=True):
        raw = weights.table[text]
        lengths = np.linalg.norm(raw, axis=0)
        np.testing.assert_allclose(values * lengths, raw, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(values, axis=0), lengths > 0, rtol=1e-4)


def test_a_text_whose_weights_are_all_zero_stays_finite():
    weights = TokenWeights(np.array([[0.0], [2.0]], dtype=np.float32))
    np.testing.assert_array_equal(weights.of(Ragged.of([[0], [1], [0, 1]]))[:, 0], [0, 1, 0, 1])


def test_no_text_at_all_has_no_weights():
    assert TokenWeights(np.ones((3, 2), dtype=np.float32)).of(Ragged.of([])).shape == (0, 2)


def test_a_state_that_went_through_json_weighs_the_same():
    weights = _counted(TEXTS, {"t": [0, 1, 1, 0]}, {"t": ("a", "b")}).weights(["idf", "log_ratio"], unweighted=[0])
    restored = TokenWeights.from_state(json.loads(json.dumps(weights.state_dict())))
    np.testing.assert_array_equal(restored.table, weights.table)


@pytest.mark.parametrize("dtype", [np.uint64, np.float32])
def test_numbers_survive_as_text(dtype):
    values = np.array([0, 1, 2**24, 12345], dtype=dtype)
    np.testing.assert_array_equal(from_text(to_text(values), dtype), values)


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=6))
def test_distinct_ids_are_each_text_s_own(rows):
    found = distinct(Ragged.of(rows), 10)
    assert found.values.dtype == np.int32
    assert [part.tolist() for part in np.split(found.values, np.cumsum(found.lengths)[:-1])] == [
        sorted(set(row)) for row in rows
    ]
