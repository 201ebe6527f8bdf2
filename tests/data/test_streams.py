"""Streams: what a step draws follows from its number alone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.streams import Stream, shuffled


def stream(count, batch_size=4, batches=1, seed=0, name="a"):
    positions = np.arange(count) * 3
    return Stream(positions, shuffled(positions, seed=seed, name=name), batch_size=batch_size, batches=batches)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 9), batches=st.integers(1, 3), turn=st.integers(0, 3))
def test_every_pass_takes_each_row_once(count, batch_size, batches, turn):
    rows = stream(count, batch_size, batches)
    drawn = [rows.step(turn * rows.steps + step) for step in range(rows.steps)]
    assert all(each.turn == turn for each in drawn)
    assert all(len(each.batches) <= batches for each in drawn)
    assert all(len(part) == batch_size for each in drawn[:-1] for part in each.batches)
    seen = np.concatenate([part for each in drawn for part in each.batches])
    assert sorted(seen) == list(np.arange(count) * 3)


def test_a_step_is_the_same_in_whichever_order_steps_are_asked_for():
    one, other = stream(10), stream(10)
    forwards = [one.step(step).batches[0].tolist() for step in range(9)]
    backwards = [other.step(step).batches[0].tolist() for step in reversed(range(9))]
    assert forwards == backwards[::-1]


def test_passes_seeds_and_names_have_orders_of_their_own():
    orders = {
        tuple(np.concatenate([rows.step(start + step).batches[0] for step in range(rows.steps)]))
        for rows in (stream(12), stream(12, seed=1), stream(12, name="b"))
        for start in (0, rows.steps)
    }
    assert len(orders) == 6


def test_more_rows_leave_the_order_of_the_others():
    few = shuffled(np.arange(20), seed=3, name="a")(1, 2)[0]
    many = shuffled(np.arange(50), seed=3, name="a")(1, 2)[0]
    assert many[many < 20].tolist() == few.tolist()
