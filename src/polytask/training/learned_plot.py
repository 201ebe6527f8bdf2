"""A picture of what a sharing scheme has learned: how each number went, and where it ended."""

from __future__ import annotations

import importlib.util
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polytask.training.atomic import write_text
from polytask.training.learned_numbers import LearnedNumber

logger = logging.getLogger("polytask")

_MOST_TABLES = 24
"""More would not be looked at; all are in the table beside."""


def plot_learned(numbers: Sequence[LearnedNumber], path: Path) -> None:
    """Draw, for each table, its last values as a map, and each row over the epochs.

    Without matplotlib nothing is drawn, and the log says so.

    Args:
        numbers: All epochs'.
        path: An SVG file.
    """
    if importlib.util.find_spec("matplotlib") is None:
        logger.info(
            "What the sharing scheme has learned is in sharing.csv; for a picture: pip install polytask[report]"
        )
        return
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    tables: dict[str, list[LearnedNumber]] = {}
    for number in numbers:
        tables.setdefault(number.table, []).append(number)
    shown = dict(list(tables.items())[:_MOST_TABLES])
    figure = Figure(figsize=(11, 3.2 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 2, squeeze=False, width_ratios=(1, 1.4))
    for (name, found), (left, right) in zip(shown.items(), axes, strict=True):
        _draw_last(left, found)
        _draw_course(right, found)
        left.set_title(_as_it_is(name), loc="left", fontsize=10)
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})  # type: ignore[no-untyped-call]
    write_text(path, text.getvalue())


def _draw_last(axes: Any, found: Sequence[LearnedNumber]) -> None:
    """The values of the last epoch as a map with numbers in it."""
    last = [number for number in found if number.epoch == found[-1].epoch]
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*((n.row, n.column) for n in last), strict=True))
    values = [[0.0] * len(columns) for _ in rows]
    for number in last:
        values[rows.index(number.row)][columns.index(number.column)] = number.value
    span = max(max(map(abs, row)) for row in values) or 1.0
    signed = any(value < 0 for row in values for value in row)
    axes.imshow(values, cmap="RdBu" if signed else "Blues", vmin=-span if signed else 0, vmax=span, aspect="auto")
    axes.set_yticks(range(len(rows)), map(_as_it_is, rows), fontsize=8)
    axes.set_xticks(range(len(columns)), map(_as_it_is, columns), rotation=45, ha="right", fontsize=8)
    if len(rows) * len(columns) <= 150:
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                dark = abs(value) > 0.6 * span
                axes.text(
                    x, y, f"{value:.2g}", ha="center", va="center", fontsize=7, color="white" if dark else "black"
                )


def _draw_course(axes: Any, found: Sequence[LearnedNumber]) -> None:
    """Each number over the epochs; a colour for each row."""
    courses: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for number in found:
        courses.setdefault((number.row, number.column), []).append((number.epoch, number.value))
    rows = list(dict.fromkeys(row for row, _ in courses))
    for (row, column), points in courses.items():
        first = next(iter(c for r, c in courses if r == row)) == column
        style = {
            "color": f"C{rows.index(row) % 10}",
            "label": _as_it_is(row) if first else None,
            "alpha": 0.8,
            "linewidth": 1.2,
        }
        axes.plot(*zip(*points, strict=True), marker="." if len(points) == 1 else None, **style)
    axes.set_xlabel("epoch", fontsize=8)
    axes.tick_params(labelsize=8)
    if len(rows) <= 12:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _as_it_is(name: str) -> str:
    """A name that matplotlib writes as it is: a dollar sign begins no formula, a leading underscore hides nothing."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
