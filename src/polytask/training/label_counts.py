"""The labels of a training's tasks, as they are shown before it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from polytask.data.overlap import LabelCounts

_MATRIX_UP_TO = 12
"""With more tasks than this, the matrix is wider than a screen."""
_PAIRS = 5


def label_table(labels: LabelCounts) -> RenderableType:
    """Which source labels how many training rows for each task, and the overlap: in short where there are many tasks.

    Of sources, there is nothing to show for one table; of overlap, nothing for one task.
    """
    matrix = 1 < len(labels.tasks) <= _MATRIX_UP_TO and not labels.complete
    text = Text(overlap_text(labels))
    if not (labels.sources or matrix):
        return text
    shown = RichTable(title="Labels in the training part", title_justify="left", header_style="bold")
    shown.add_column("task", justify="left")
    shown.add_column("labelled", justify="right")
    if labels.sources:
        shown.add_column("by source", justify="left")
    for number in range(1, len(labels.tasks) + 1) if matrix else ():
        shown.add_column(str(number), justify="right")
    for row, task in enumerate(labels.tasks):
        cells = [f"{row + 1} {task}" if matrix else task, f"{labels.labelled[row]:,}"]
        if labels.sources:
            cells.append(_by_source(labels, row))
        shown.add_row(*cells, *(_percent(share) for share in labels.overlap[row] if matrix))
    if not matrix:
        return Group(shown, text)
    shown.caption = "numbered columns: share of the task's labelled rows that are labelled for that task too"
    shown.caption_justify = "left"
    return shown


def overlap_text(labels: LabelCounts) -> str:
    """The overlap in one line."""
    if len(labels.tasks) == 1:
        return ""
    if labels.complete:
        return "Overlap: every training row is labelled for every task."
    pairs = labels.pairs()
    count = math.comb(len(labels.tasks), 2)
    if not pairs:
        return "Overlap: no training row is labelled for two tasks."
    most = ", ".join(f"{one} and {other} {_percent(share)}" for one, other, share in pairs[:_PAIRS])
    return f"Overlap: {len(pairs):,} of {count:,} pairs of tasks have labelled rows in common; most: {most}."


def _by_source(labels: LabelCounts, row: int) -> str:
    counts: Sequence[tuple[str, int]] = [
        (name, count) for name, count in zip(labels.sources, labels.by_source[row].tolist(), strict=True) if count
    ]
    more = f" and {len(counts) - _PAIRS} more" if len(counts) > _PAIRS else ""
    return ", ".join(f"{name} {count:,}" for name, count in counts[:_PAIRS]) + more


def _percent(share: float) -> str:
    if math.isnan(share):
        return "-"
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else "< 1 %"
