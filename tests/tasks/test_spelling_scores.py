from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.tasks.spelling_scores import edits, spelling_metrics

texts_st = st.text("ab ", max_size=7)


def by_definition(first, second):
    @cache
    def least(i, j):
        if not i or not j:
            return i + j
        same = first[i - 1] == second[j - 1]
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, least(i - 1, j - 1) + (not same))

    return least(len(first), len(second))


@settings(max_examples=200, deadline=None)
@given(first=texts_st, second=texts_st)
def test_edits_equal_those_of_the_definition(first, second):
    assert edits(first, second) == by_definition(first, second) == edits(second, first)


def test_rates_are_over_all_rows():
    metrics = spelling_metrics()
    metrics.update(["the cat", "", "a b"], ["the hat sat", "x", "a b"])
    metrics.update(["same"], ["same"])
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found["wer"] == pytest.approx((2 + 1) / (3 + 1 + 2 + 1))
    assert found["cer"] == pytest.approx((5 + 1) / (11 + 1 + 3 + 4))
    assert found["accuracy"] == pytest.approx(2 / 4)


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_no_words_no_rate():
    assert all(value.isnan() for value in spelling_metrics().compute().values())
