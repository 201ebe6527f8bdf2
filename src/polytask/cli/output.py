"""What the verbs print in common."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

if TYPE_CHECKING:
    from polytask.evaluation import Evaluation


def console() -> Console:
    """The console of standard output."""
    return Console(soft_wrap=False)


def log_to_console(to: Console, *, quiet: bool) -> None:
    """Show what Polytask logs: everything it decided by itself, or only warnings when quiet."""
    logger = logging.getLogger("polytask")
    handler = RichHandler(
        console=to, show_time=False, show_path=False, show_level=False, markup=False, highlighter=None
    )
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def print_json(value: Mapping[str, Any]) -> None:
    """Machine-readable output."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


_ALL_METRICS_UP_TO = 4
"""With more tasks than this, a table of every metric is longer than a screen."""


def evaluation_table(evaluation: Evaluation) -> Table:
    """The model's and the baseline's metrics, task by task; only the main ones where there are many tasks."""
    table = Table(title=f"{evaluation.part}: {evaluation.rows:,} rows", title_justify="left", header_style="bold")
    for column in ("task", "metric", "model", "baseline", "gain"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    brief = len(evaluation.scores) > _ALL_METRICS_UP_TO
    for task, scores in evaluation.scores.items():
        main = evaluation.main[task]
        baseline = evaluation.baseline[task]
        name = task
        for metric in sorted(scores, key=lambda metric: metric != main):
            if metric == main:
                gain = _cell(evaluation.gains[task])
                table.add_row(name, f"[bold]{metric}", f"[bold]{_cell(scores[metric])}", _cell(baseline[metric]), gain)
            elif not brief:
                table.add_row(name, metric, _cell(scores[metric]), _cell(baseline[metric]), "")
            name = ""
        if not brief:
            table.add_section()
    if brief:
        table.caption = "main metrics only; --json prints all"
    return table


GAIN_NOTE = (
    "gain: share of the baseline's error that the model removes in the task's main metric (bold); "
    "the baseline predicts a constant learned from the training part"
)


def _cell(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"
