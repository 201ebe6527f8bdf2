"""`polytask init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polytask.errors import UserError


def init(
    table: Annotated[str, typer.Argument(help="A table: CSV, TSV, Parquet, JSON Lines, Arrow, or a folder of images.")],
    targets: Annotated[str, typer.Option("--targets", "-t", help="The columns to predict, as a,b")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The YAML to write (new); default: standard output.")
    ] = None,
) -> None:
    """Look at a table and write a commented configuration that trains as it is."""
    from polytask.config.propose import propose
    from polytask.data.readers import read_table
    from polytask.training.atomic import write_text

    wanted = [word.strip() for word in targets.split(",") if word.strip()]
    if not wanted:
        raise UserError("Say at least one column to predict: --targets a,b")
    if output is not None and output.exists():
        raise UserError(f"'{output}' exists already and is never overwritten. Choose another name with --output.")
    source = table if output is None else _seen_from(Path(table).resolve(), output.resolve().parent)
    text = propose(read_table(table), source, wanted)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_text(output, text)
    typer.echo(f"{output}: look it over, then run: polytask train {output}")


def _seen_from(table: Path, folder: Path) -> str:
    """A path in the configuration starts at its folder; below it, a relative one lets both be moved together."""
    return str(table.relative_to(folder)) if table.is_relative_to(folder) else str(table)
