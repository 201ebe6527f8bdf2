import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.partition import by_group, by_stratum, largest_first, random_rows

fractions = st.tuples(st.floats(0, 0.49), st.floats(0, 0.49))


def sizes(parts):
    return np.bincount(parts, minlength=3)


@given(st.integers(1, 500), fractions, st.integers(0, 5))
def test_random_sizes_are_rounded_to_the_nearest(count, wanted, seed):
    valid, test = wanted
    found = sizes(random_rows(count, valid, test, np.random.default_rng(seed)))
    assert found.sum() == count
    assert abs(found[1] - count * valid) <= 0.5 + 1e-9
    assert abs(found[2] - count * test) <= 0.5 + 1e-9


def test_every_row_is_as_likely_in_each_part():
    generator = np.random.default_rng(0)
    parts = np.stack([random_rows(20, 0.2, 0.3, generator) for _ in range(4000)])
    for part, share in ((1, 0.2), (2, 0.3)):
        # Five standard deviations of a binomial share.
        np.testing.assert_allclose((parts == part).mean(axis=0), share, atol=5 * np.sqrt(share * (1 - share) / 4000))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=300), fractions, st.integers(0, 5))
def test_each_stratum_is_divided_in_the_same_proportion(strata, wanted, seed):
    strata = np.array(strata)
    valid, test = wanted
    parts = by_stratum(strata, valid, test, np.random.default_rng(seed))
    for stratum in np.unique(strata):
        found = sizes(parts[strata == stratum])
        count = found.sum()
        assert found[0] >= 1
        assert abs(found[0] - count * (1 - valid - test)) <= 1 + 1e-9
        assert abs(found[1] - count * valid) < 2
        assert abs(found[2] - count * test) < 2
    if valid == 0:
        assert not (parts == 1).any()
    if test == 0:
        assert not (parts == 2).any()


def test_many_small_strata_add_up_to_parts_of_the_right_size():
    strata = np.repeat(np.arange(1000), 3)
    found = sizes(by_stratum(strata, 0.1, 0.1, np.random.default_rng(0)))
    np.testing.assert_allclose(found, [2400, 300, 300], atol=1)


def test_a_single_stratum_is_divided_exactly():
    found = sizes(by_stratum(np.zeros(100, np.int64), 0.1, 0.2, np.random.default_rng(0)))
    assert found.tolist() == [70, 10, 20]


def test_strata_without_rows_do_no_harm():
    assert sizes(by_stratum(np.array([0, 0, 0, 0, 5, 5, 5, 5]), 0.25, 0.25, np.random.default_rng(0))).sum() == 8


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=3, max_size=200), fractions, st.integers(0, 5))
def test_groups_stay_whole_and_every_part_has_one(groups, wanted, seed):
    groups = np.unique(groups, return_inverse=True)[1]
    valid, test = wanted
    present = {0} | ({1} if valid > 0 else set()) | ({2} if test > 0 else set())
    if groups.max() + 1 < len(present):
        return
    parts = by_group(groups, valid, test, np.random.default_rng(seed))
    assert all(len(set(parts[groups == group])) == 1 for group in range(groups.max() + 1))
    assert set(parts.tolist()) == present


def best_deviation(counts, wanted):
    """The least deviation over all divisions in which no part is empty: the independent reference."""
    best = np.inf
    for owner in itertools.product(range(3), repeat=len(counts)):
        if len(set(owner)) == 3:
            found = np.bincount(owner, counts, 3)
            best = min(best, np.abs(found - wanted).sum())
    return best


@pytest.mark.parametrize("seed", range(12))
def test_group_sizes_are_near_the_best_possible(seed):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 30, 8)
    groups = np.repeat(np.arange(8), counts)
    wanted = len(groups) * np.array([0.6, 0.2, 0.2])
    found = sizes(by_group(groups, 0.2, 0.2, generator))
    assert np.abs(found - wanted).sum() <= best_deviation(counts, wanted) + 0.06 * len(groups)


def test_many_groups_meet_the_fractions_exactly():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), generator.integers(1, 40, 300))
    wanted = len(groups) * np.array([0.8, 0.1, 0.1])
    found = sizes(by_group(groups, 0.1, 0.1, generator))
    np.testing.assert_allclose(found, wanted, atol=1)


def test_other_seeds_choose_other_groups():
    groups = np.repeat(np.arange(50), 4)
    chosen = {tuple(by_group(groups, 0.1, 0.1, np.random.default_rng(seed))) for seed in range(5)}
    assert len(chosen) == 5


def test_three_equal_groups_fill_three_parts():
    assert sorted(sizes(by_group(np.repeat([0, 1, 2], 10), 0.1, 0.1, np.random.default_rng(0)))) == [10, 10, 10]


def _numbered(groups):
    return np.unique(np.array(groups), return_inverse=True)[1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=31, max_size=300), fractions, st.integers(0, 5), st.booleans())
def test_no_group_is_in_two_parts_and_none_is_fuller_than_by_its_last_group(groups, wanted, seed, shuffled):
    groups, (valid, test) = _numbered(groups), wanted
    if groups.max() < 2:
        return
    parts = largest_first(groups, valid, test, np.random.default_rng(seed) if shuffled else None)
    for group in range(groups.max() + 1):
        assert len(np.unique(parts[groups == group])) == 1
    shares = len(groups) * np.array([1 - valid - test, valid, test])
    largest = np.bincount(groups).max()
    for found, share in zip(sizes(parts), shares, strict=True):
        assert (found > 0) == (share > 0)
        assert abs(found - share) <= 2 * largest


def test_large_groups_are_trained_on():
    groups = np.repeat(np.arange(8), [1, 6, 1, 2, 1, 1, 6, 2])
    parts = largest_first(groups, 0.2, 0.2)
    # 20 rows: 12, 4, 4. The two of six rows fill training; then those of two rows; then single ones.
    assert [parts[groups == group][0] for group in range(8)] == [2, 0, 2, 1, 2, 2, 0, 1]


def test_balanced_shuffles_the_groups_but_the_large_ones():
    groups = np.repeat(np.arange(41), [20, *[1] * 40])
    splits = [largest_first(groups, 0.1, 0.1, np.random.default_rng(seed)) for seed in range(5)]
    assert all((parts[groups == 0] == 0).all() for parts in splits)
    assert len({parts.tobytes() for parts in splits}) == 5
    assert all(sizes(parts).tolist() == [48, 6, 6] for parts in splits)
