"""`polytask train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polytask.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from polytask.training.auxiliary_check import AuxiliaryCheck
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
    adapt: Annotated[
        Path | None, typer.Option(help="Start from the encoder of this run, to learn a new task.", metavar="RUN")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The new task of --adapt; the configuration's others are left out.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show data and model, train nothing.")
    ] = False,
    check_auxiliary: Annotated[
        bool,
        typer.Option(
            "--check-auxiliary", help="Afterwards train the same without the auxiliary tasks, and compare the others."
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds --check-auxiliary compares.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Plain lines only.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the run's summary as JSON at the end.")] = False,
) -> None:
    """Train a model from a configuration, or go on with a run."""
    _check(config, resume, adapt, task, changed=bool(overrides or output), dry_run=dry_run)
    _require_check(check_auxiliary, seeds, trains=resume is None and adapt is None and not dry_run)
    import sys

    from rich.console import Console

    from polytask.cli.output import log_to_console, print_json

    shown = Console(file=sys.stderr) if json else Console()
    log_to_console(shown, quiet=quiet)
    from polytask.config import load_config

    # First of all, as what is wrong in it is to show before seconds of imports.
    loaded = None if config is None else load_config(config, overrides or [])
    from polytask.training.display import Display
    from polytask.training.job import make_job
    from polytask.training.train import resume as resume_run
    from polytask.training.train import train as train_run

    display = Display(shown, quiet=quiet)
    if resume is not None:
        folder = _stoppable(lambda: resume_run(resume, display=display), resume)
    else:
        assert loaded is not None
        if adapt is not None:
            from polytask.training.adapt import adapted

            loaded = adapted(loaded, adapt, task)
        if dry_run:
            job = make_job(loaded)
            display.job(job)
            display.structure(job)
            shown.print("Dry run: all is well, nothing was trained or written.")
            return
        if check_auxiliary:
            from polytask.config.without_auxiliary import without_auxiliary

            without_auxiliary(loaded, steps_per_epoch=1)  # what cannot be compared is to show before the training
        root = output or Path("runs") / loaded.run_name()
        folder = _stoppable(lambda: train_run(loaded, root, display=display), root)
    check = None
    if check_auxiliary:
        from polytask.training.auxiliary_check import check_auxiliary as check_run

        assert loaded is not None
        check = check_run(loaded, folder, seeds)
    if json:
        found = {} if check is None else {"auxiliary": check.as_json()}
        print_json({"run": str(folder.root), **folder.read_summary(), **found})
    else:
        _show_end(folder, check, shown, quiet=quiet)


def _show_end(folder: RunFolder, check: AuxiliaryCheck | None, shown: Console, *, quiet: bool) -> None:
    """What came out, and what can be done with it."""
    summary = folder.read_summary()
    value = summary["best_value"]
    chosen = f", {summary['selection']} {value:.4g} on validation data" if value is not None else ""
    shown.print(f"Run: {folder.root}  (epoch {summary['best_epoch']} of {summary['epochs']} is the best{chosen})")
    if check is not None:
        _show_check(check, shown)
    if not quiet:
        part = next(name for name in ("test", "valid", "train") if name in summary["rows"])
        which = "" if part == "test" else f" --part {part}"
        shown.print(
            f"Next: polytask evaluate {folder.root}{which}    polytask predict {folder.root} TABLE", highlight=False
        )


def _require_check(wanted: bool, seeds: int, *, trains: bool) -> None:
    """Make sure that the options about auxiliary tasks go together with the others."""
    if wanted and not trains:
        raise UserError("--check-auxiliary goes with a plain training, not with --resume, --adapt or --dry-run.")
    if seeds > 1 and not wanted:
        raise UserError("--seeds says how many seeds --check-auxiliary compares, which is not asked for.")


def _show_check(check: AuxiliaryCheck, shown: Console) -> None:
    """What the auxiliary tasks changed, and what that can mean."""
    from polytask.training.display import auxiliary_table

    shown.print(auxiliary_table(check))
    for note in check.notes:
        shown.print(note, highlight=False)


def _check(
    config: Path | None, resume: Path | None, adapt: Path | None, task: str | None, *, changed: bool, dry_run: bool
) -> None:
    """Make sure that what is asked for goes together."""
    if (config is None) == (resume is None):
        raise UserError(
            "Say either a configuration (polytask train CONFIG.yaml) or a run to go on with (--resume RUN)."
        )
    if resume is not None and (changed or dry_run):
        raise UserError("--resume goes on with a run as it is: it takes no overrides, --output or --dry-run.")
    if adapt is not None and resume is not None:
        raise UserError("--adapt starts a new run; a run that was started so goes on with --resume alone.")
    if task is not None and adapt is None:
        raise UserError("--task names the new task of --adapt RUN, which is not asked for.")


def _stoppable(work: Callable[[], RunFolder], root: Path) -> RunFolder:
    """Say how to go on when the user stops a training."""
    try:
        return work()
    except KeyboardInterrupt:
        if not (root / "config.yaml").is_file():
            raise UserError("Stopped before anything was written.") from None
        when = "" if (root / "checkpoints" / "last.ckpt").is_file() else " before the first checkpoint"
        raise UserError(f"Stopped{when}. Go on with: polytask train --resume {root}") from None
