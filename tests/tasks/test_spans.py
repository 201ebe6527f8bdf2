from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.tasks.spans import spans, tagset


def found(text, known):
    """The spans of tags that are separated by spaces, and rows by `/`, as (first, last, kind) within all words."""
    rows = [row.split() for row in text.split("/")]
    classes = list(CLASSES)
    tags = np.array([classes.index(tag) if tag != "?" else -1 for row in rows for tag in row], dtype=np.int64)
    numbers = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return [tuple(map(int, span)) for span in spans(tags, numbers, known)]


CLASSES = ("O", *(f"{mark}-{kind}" for mark in "BIES" for kind in ("PER", "LOC")))
KNOWN = tagset(CLASSES)
PER, LOC = (int(KNOWN.kinds[CLASSES.index(f"B-{kind}")]) for kind in ("PER", "LOC"))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", []),
        ("B-PER I-PER O", [(0, 1, PER)]),
        ("I-PER I-PER", [(0, 1, PER)]),  # IOB1: no beginning needed
        ("I-PER B-PER I-PER", [(0, 0, PER), (1, 2, PER)]),
        ("B-PER I-LOC", [(0, 0, PER), (1, 1, LOC)]),  # the kind changes
        ("B-PER E-PER I-PER", [(0, 1, PER), (2, 2, PER)]),  # after an end, a new one
        ("S-LOC I-LOC", [(0, 0, LOC), (1, 1, LOC)]),
        ("S-LOC S-LOC", [(0, 0, LOC), (1, 1, LOC)]),
        ("O E-PER", [(1, 1, PER)]),
        ("B-PER I-PER / I-PER", [(0, 1, PER), (2, 2, PER)]),  # a row's end ends a span
        ("B-PER ? I-PER", [(0, 0, PER), (2, 2, PER)]),  # so does a word that is left out
        ("I-PER E-PER B-LOC I-LOC E-LOC", [(0, 1, PER), (2, 4, LOC)]),
    ],
)
def test_spans_by_the_rules_of_conlleval(tags, expected):
    assert found(tags, KNOWN) == expected


def conlleval(tags):
    """The spans of one row, written down from conlleval's functions endOfChunk and startOfChunk."""
    result, start, kind = [], None, None
    for place, (before, now) in enumerate(pairwise(["O", *tags, "O"])):
        (mark_before, _, kind_before), (mark, _, kind_now) = before.partition("-"), now.partition("-")
        ends = (
            (mark_before in "BI" and mark in "BSO")
            or mark_before in "ES"
            or (mark_before != "O" and kind_before != kind_now)
        )
        starts = mark in "BS" or (mark_before in "ESO" and mark in "EI") or (mark != "O" and kind_before != kind_now)
        if ends and start is not None:
            result.append((start, place - 1, kind))
            start = None
        if starts:
            start, kind = place, kind_now
    return result


@settings(max_examples=300, deadline=None)
@given(tags=st.lists(st.sampled_from(CLASSES), min_size=1, max_size=8))
def test_spans_equal_those_of_conlleval(tags):
    kinds = {PER: "PER", LOC: "LOC"}
    assert [(first, last, kinds[kind]) for first, last, kind in found(" ".join(tags), KNOWN)] == conlleval(tags)


def test_bilou_tags_are_bioes_tags_of_other_names():
    classes = ("O", "B-X", "I-X", "L-X", "U-X")
    known = tagset(classes)
    tags = np.array([1, 2, 3, 4, 4, 0])
    assert spans(tags, np.zeros(6, dtype=int), known)[:, :2].tolist() == [[0, 2], [3, 3], [4, 4]]


def test_tags_without_marks_are_spans_of_one_word():
    known = tagset(("NOUN", "VERB", "O"))
    assert not known.scheme
    assert spans(np.array([0, 0, 2]), np.zeros(3, dtype=int), known).tolist() == [[0, 0, 0], [1, 1, 0], [2, 2, 2]]


def test_a_class_for_unknown_tags_is_outside():
    known = tagset(("O", "B-X", "unknown"), other="unknown")
    assert known.scheme
    assert len(spans(np.array([2]), np.zeros(1, dtype=int), known)) == 0
    assert spans(np.empty(0, dtype=int), np.empty(0, dtype=int), known).shape == (0, 3)
