"""`polytask evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Annotated[Path | None, typer.Option(help="A labelled table; default: the run's own data.")] = None,
    part: Annotated[str, typer.Option(help="Which part of the run's own data: test, valid or train.")] = "test",
    source: Annotated[
        str | None, typer.Option(help="Which of the run's sources the table looks like, if there are several.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 256,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a trained model on test data, or on a table of your own, beside a constant prediction."""
    from rich.console import Console

    from polytask.cli.output import GAIN_NOTE, console, evaluation_table, log_to_console, print_json
    from polytask.evaluation import Run

    # Rows that are left out are said in warnings, which are no JSON.
    shown = Console(stderr=True) if json else console()
    log_to_console(shown, quiet=json)
    evaluation = Run(run).evaluate(data, part, source=source, batch_size=batch_size)
    if json:
        print_json(evaluation.as_json())
        return
    shown.print(evaluation_table(evaluation))
    shown.print(f"mean gain {evaluation.mean_gain:.4g}   [dim]({GAIN_NOTE})[/dim]")
