"""The labels as they are shown before a training."""

import io

import numpy as np
import pytest
from rich.console import Console

from polytask.data.overlap import LabelCounts
from polytask.training.label_counts import label_table, overlap_text


def labels(together, sources=(), by_source=None, rows=100) -> LabelCounts:
    together = np.array(together)
    names = tuple(f"t{k}" for k in range(len(together)))
    counts = np.zeros((len(together), len(sources)), np.int64) if by_source is None else np.array(by_source)
    return LabelCounts(names, sources, rows, together, counts)


def shown(counts: LabelCounts) -> str:
    text = io.StringIO()
    Console(file=text, width=140).print(label_table(counts))
    return text.getvalue()


def test_a_few_tasks_are_shown_with_the_whole_matrix():
    text = shown(labels([[50, 1, 0], [1, 200, 20], [0, 20, 40]], ("a", "b"), [[50, 0], [150, 50], [0, 40]]))
    lines = [line for line in text.splitlines() if " t" in line and "%" in line]
    assert [word.strip() for word in lines[0].strip("│").split("│")] == ["1 t0", "50", "a 50", "100 %", "2 %", "0 %"]
    assert "a 150, b 50" in lines[1] and "< 1 %" in lines[1] and "10 %" in lines[1]


def test_many_tasks_are_shown_in_short():
    together = np.diag(np.full(20, 10))
    together[3, 7] = together[7, 3] = 5
    text = shown(labels(together))
    assert "Overlap: 1 of 190 pairs of tasks have labelled rows in common; most: t3 and t7 50 %." in text
    assert len(text.splitlines()) < 4
    with_sources = shown(labels(together, ("a",), np.full((20, 1), 10)))
    assert "t19" in with_sources and "a 10" in with_sources and "Overlap: 1 of 190" in with_sources


@pytest.mark.parametrize(
    ("together", "rows", "text"),
    [
        ([[5, 5], [5, 5]], 5, "Overlap: every training row is labelled for every task."),
        ([[5, 0], [0, 5]], 10, "Overlap: no training row is labelled for two tasks."),
        ([[5]], 9, ""),
    ],
)
def test_the_overlap_in_one_line(together, rows, text):
    assert overlap_text(labels(together, rows=rows)) == text
