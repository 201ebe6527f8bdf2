import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polytask.data.inputs.draws import Draws


@given(seed=st.integers(-(2**63), 2**63), rows=st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_a_draw_depends_on_its_row_and_not_on_the_others(seed, rows):
    rows = np.array(rows)
    together = Draws(seed, 3).uniform(rows, 1)
    alone = [Draws(seed, 3).uniform(rows[i : i + 1], 1)[0] for i in range(len(rows))]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < 1)).all()


def test_seeds_epochs_and_streams_draw_differently():
    rows = np.arange(1000)
    draws = [Draws(0, 0).bits(rows, 0), Draws(1, 0).bits(rows, 0), Draws(0, 1).bits(rows, 0), Draws(0, 0).bits(rows, 1)]
    assert len(np.unique(np.concatenate(draws))) == 4000


def test_draws_are_uniform_and_unrelated_between_epochs():
    rows = np.arange(20_000)
    first, second = Draws(5, 0).uniform(rows, 0), Draws(5, 1).uniform(rows, 0)
    counts, _ = np.histogram(first, bins=10, range=(0, 1))
    assert abs(counts - 2000).max() < 5 * 2000**0.5
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.03
