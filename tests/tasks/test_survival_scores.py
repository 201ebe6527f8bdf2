"""Concordance and Brier score against what their definitions say, pair by pair and row by row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.tasks.survival_curves import Curves
from polytask.tasks.survival_scores import concordance, integrated_brier

rows = st.lists(
    st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 4)), min_size=1, max_size=25
)  # time, event, risk: few values, so that there are ties of all kinds


@settings(max_examples=200, deadline=None)
@given(rows)
def test_concordance_counts_every_comparable_pair(given_rows):
    time, event, risk = (np.array(column) for column in zip(*given_rows, strict=True))
    right = pairs = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    found = concordance(risk.astype(float), time.astype(float), event)
    assert found == pytest.approx(right / pairs) if pairs else np.isnan(found)


def test_concordance_of_the_survival_literatures_example_by_hand():
    # Comparable: (1, 2), (1, 3), (1, 4), (3, 4); concordant all but (1, 3), where the risks are equal.
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, True])
    assert concordance(np.array([5.0, 1.0, 5.0, 0.0]), time, event) == pytest.approx(3.5 / 4)


def test_without_censoring_concordance_is_the_probability_that_a_pair_is_in_order():
    draw = np.random.default_rng(0)
    time, risk = draw.random(2000), draw.random(2000)
    earlier = time[:, None] < time
    expected = (risk[:, None] > risk)[earlier].mean()
    assert concordance(risk, time, np.ones(2000, dtype=bool)) == pytest.approx(expected)
    assert concordance(-time, time, np.ones(2000, dtype=bool)) == 1.0


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(0, 100))
def test_the_brier_score_is_what_graf_says(given_rows, seed):
    time, event, _ = (np.array(column) for column in zip(*given_rows, strict=True))
    time = time.astype(float)
    edges = np.array([1.0, 2.5, 4.0])
    values = torch.rand(len(time), 3, generator=torch.Generator().manual_seed(seed)).sort(descending=True).values
    curves = Curves(values.double(), torch.tensor(edges))

    def observed(t, inclusive):
        product = 1.0
        for step in np.unique(time[~event]):
            if step < t or (inclusive and step == t):
                at_risk = ((time > step) | ((time == step) & ~event)).sum()
                product *= 1 - ((time == step) & ~event).sum() / at_risk
        return product

    grid = [0.0, *edges[edges < time.max()]]
    scores = []
    for place, t in enumerate(grid):
        total = 0.0
        for i in range(len(time)):
            survival = 1.0 if place == 0 else float(values[i, place - 1])
            if time[i] <= t and event[i]:
                total += survival**2 / observed(time[i], False)
            elif time[i] > t:
                total += (1 - survival) ** 2 / observed(t, True)
        scores.append(total / len(time))
    found = integrated_brier(curves, time, event, edges)
    if len(grid) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(np.trapezoid(scores, grid) / grid[-1])


def test_curves_are_linear_between_the_edges():
    curves = Curves(torch.tensor([[0.8, 0.2]]), torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(
        curves.at(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])), torch.tensor([[1.0, 0.9, 0.8, 0.5, 0.2]])
    )
    torch.testing.assert_close(curves.medians(), torch.tensor([3.0]))
    torch.testing.assert_close(curves.risks(), torch.tensor([1 - (1.8 + 1.0) / 4]))
