import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.boxes import Boxes


def boxes_of(counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    corner = torch.rand(total, 2, generator=generator) * 10
    return Boxes(
        torch.cat([corner, corner + 1], dim=1),
        torch.randint(3, (total,), generator=generator),
        torch.rand(total, generator=generator) < 0.3,
        torch.tensor(counts, dtype=torch.int64),
    )


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@given(COUNTS, st.data())
def test_select_gives_the_boxes_of_the_rows_in_their_order(counts, data):
    rows = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8))
    boxes = boxes_of(counts)
    chosen = boxes.select(torch.tensor(rows, dtype=torch.int64))
    assert same(chosen.rows(), [boxes.rows()[row] for row in rows])


@given(st.lists(COUNTS, min_size=1, max_size=3))
def test_join_gives_the_rows_of_all_parts(parts):
    given_parts = [boxes_of(counts, seed) for seed, counts in enumerate(parts)]
    assert same(Boxes.join(given_parts).rows(), [row for part in given_parts for row in part.rows()])


@given(COUNTS, st.integers(0, 3), st.integers(0, 3))
def test_spread_leaves_the_other_rows_without_boxes(counts, before, after):
    boxes = boxes_of(counts)
    spread = boxes.spread(before, before + len(counts) + after)
    assert same(spread.rows()[before : before + len(counts)], boxes.rows())
    assert spread.counts.sum() == boxes.counts.sum()


def test_map_reaches_every_tensor():
    doubled = boxes_of([2, 0, 1]).map(lambda values: values * 2)
    assert doubled.counts.tolist() == [4, 0, 2]
    torch.testing.assert_close(doubled.boxes, boxes_of([2, 0, 1]).boxes * 2)
