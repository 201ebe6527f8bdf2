"""`polytask train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polytask.errors import UserError

if TYPE_CHECKING:
    from polytask.training.run_folder import RunFolder


def train(
    config: Annotated[Path | None, typer.Argument(help="A YAML configuration (polytask init writes one).")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to it, as training.epochs=3", metavar="KEY=VALUE")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run folder (new); default runs/NAME.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.", metavar="RUN")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show data and model, train nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Plain lines only.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the run's summary as JSON at the end.")] = False,
) -> None:
    """Train a model from a configuration, or go on with a run."""
    if (config is None) == (resume is None):
        raise UserError(
            "Say either a configuration (polytask train CONFIG.yaml) or a run to go on with (--resume RUN)."
        )
    if resume is not None and (overrides or output or dry_run):
        raise UserError("--resume goes on with a run as it is: it takes no overrides, --output or --dry-run.")
    import sys

    from rich.console import Console

    from polytask.cli.output import log_to_console, print_json

    shown = Console(file=sys.stderr) if json else Console()
    log_to_console(shown, quiet=quiet)
    from polytask.config import load_config
    from polytask.training.display import Display
    from polytask.training.job import make_job
    from polytask.training.train import resume as resume_run
    from polytask.training.train import train as train_run

    display = Display(shown, quiet=quiet)
    if resume is not None:
        folder = _stoppable(lambda: resume_run(resume, display=display), resume)
    else:
        assert config is not None
        loaded = load_config(config, overrides or [])
        if dry_run:
            job = make_job(loaded)
            display.job(job)
            display.structure(job)
            shown.print("Dry run: all is well, nothing was trained or written.")
            return
        root = output or Path("runs") / loaded.run_name()
        folder = _stoppable(lambda: train_run(loaded, root, display=display), root)
    summary = folder.read_summary()
    if json:
        print_json({"run": str(folder.root), **summary})
        return
    value = summary["best_value"]
    chosen = f", {summary['selection']} {value:.4g} on validation data" if value is not None else ""
    shown.print(f"Run: {folder.root}  (epoch {summary['best_epoch']} of {summary['epochs']} is the best{chosen})")
    if not quiet:
        shown.print(f"Next: polytask evaluate {folder.root}    polytask predict {folder.root} TABLE", highlight=False)


def _stoppable(work: Callable[[], RunFolder], root: Path) -> RunFolder:
    """Say how to go on when the user stops a training."""
    try:
        return work()
    except KeyboardInterrupt:
        if (root / "checkpoints" / "last.ckpt").is_file():
            raise UserError(f"Stopped. Go on with: polytask train --resume {root}") from None
        raise
