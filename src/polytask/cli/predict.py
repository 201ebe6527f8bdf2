"""`polytask predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Annotated[str, typer.Argument(help="A table; target columns are not needed.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write: .parquet or .csv (new).")] = Path(
        "predictions.parquet"
    ),
    source: Annotated[
        str | None, typer.Option(help="Which of the run's sources the table looks like, if there are several.")
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="For so many rows, a picture of what is predicted on its image.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 256,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict every task for the rows of a table: class names with probabilities, values in your units."""
    from polytask.cli.output import console, log_to_console, print_json
    from polytask.evaluation import Run, write_predictions
    from polytask.evaluation.predict import check_output, pictures_folder, predictions

    shown = console()
    log_to_console(shown, quiet=json)
    check_output(output)
    opened = Run(run)
    part = opened.open(data, source)
    rows = write_predictions(predictions(opened.trained, part, batch_size=batch_size), output)
    drawn = 0
    if pictures:
        from polytask.evaluation.pictures import draw_pictures

        drawn = draw_pictures(opened.trained, part, pictures_folder(output), count=pictures)
    if json:
        print_json({"output": str(output), "rows": rows, **({"pictures": drawn} if drawn else {})})
    else:
        shown.print(f"{rows:,} rows: {output}")
        if drawn:
            shown.print(f"{drawn:,} pictures: {pictures_folder(output)}")
