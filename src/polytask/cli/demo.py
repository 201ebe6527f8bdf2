"""`polytask demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CONFIG = Path(__file__).with_name("demo.yaml")


def demo(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run folder (new); default runs/demo.")
    ] = None,
    single_task: Annotated[
        bool, typer.Option("--single-task", help="Also train each task alone, with the same model and recipe.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Plain lines only.")] = False,
) -> None:
    """Train two tasks on built-in data in under a minute: nothing to download."""
    from polytask.cli.output import GAIN_NOTE, console, evaluation_table, log_to_console

    shown = console()
    log_to_console(shown, quiet=quiet)
    shown.print("Two overlapping handwritten digits in each image; two tasks: the left digit and the right one.")
    from polytask.config import load_config
    from polytask.evaluation import Run
    from polytask.training.display import Display
    from polytask.training.train import train

    root = output or _free(Path("runs") / "demo")
    config = load_config(CONFIG)
    run = Run(train(config, root, display=Display(shown, quiet=quiet)).root)
    evaluation = run.evaluate()
    shown.print(evaluation_table(evaluation))
    shown.print(f"[dim]{GAIN_NOTE}[/dim]")
    if single_task:
        for task, scores in evaluation.scores.items():
            alone = load_config(CONFIG, [f"name=demo-{task}"])
            alone = alone.only_task(task)
            folder = train(alone, root.with_name(f"{root.name}-{task}"), display=Display(shown, quiet=True))
            metric = evaluation.main[task]
            single = Run(folder.root).evaluate().scores[task][metric]
            shown.print(f"{task}: {metric} {single:.4g} alone, {scores[metric]:.4g} together", highlight=False)
    shown.print(
        f"""
Next:
  polytask evaluate {root}                        these numbers again, or on a table of yours with --data
  polytask render {root}/config.yaml              all that was configured, defaults included
  polytask train {root}/config.yaml balancing=uncertainty name=mine
  polytask init TABLE.csv --targets a,b -o my.yaml   then: polytask train my.yaml
  polytask demo --single-task                         the same tasks, each trained alone
""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _free(root: Path) -> Path:
    """The first of `root`, `root-2`, `root-3`... that is not taken."""
    number, free = 1, root
    while free.exists():
        number += 1
        free = root.with_name(f"{root.name}-{number}")
    return free
