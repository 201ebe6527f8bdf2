import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polytask.data.moments import Moments


def _in_parts(values, cuts):
    moments = Moments(values.shape[1])
    for part in np.split(values, sorted(cuts)):
        moments.add(part)
    return moments


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    offset=st.sampled_from([0.0, 1e6, -1e9]),
)
def test_any_cutting_gives_numpys_mean_and_deviation(seed, rows, cuts, offset):
    generator = np.random.default_rng(seed)
    values = generator.normal(offset, 3.0, size=(rows, 3))
    values[generator.random(values.shape) < 0.3] = np.nan
    values[0] = offset + 1
    moments = _in_parts(values, cuts)
    np.testing.assert_array_equal(moments.count, (~np.isnan(values)).sum(axis=0))
    np.testing.assert_allclose(moments.mean, np.nanmean(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, np.nanstd(values, axis=0), rtol=1e-6, atol=1e-6)


def test_a_constant_column_has_no_deviation_at_all():
    values = np.full((1000, 1), 0.1)
    assert _in_parts(values, [1, 17, 300]).std.tolist() == [0.0]


def test_a_column_without_values_counts_nothing():
    moments = _in_parts(np.full((5, 2), np.nan), [2])
    assert (moments.count.tolist(), moments.mean.tolist(), moments.std.tolist()) == ([0, 0], [0, 0], [0, 0])
