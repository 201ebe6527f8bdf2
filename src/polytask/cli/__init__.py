"""The command line: a thin shell over the Python API. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import logging
import sys

import typer

from polytask.cli import demo, evaluate, init, inspect, predict, train
from polytask.errors import UserError

app = typer.Typer(
    name="polytask",
    help="Train one neural network for many tasks, and learn honestly whether sharing paid off.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: polytask demo    Exit codes: 0 done, 2 the input is wrong, 1 anything else.",
)


@app.callback(invoke_without_command=True)
def polytask(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error (anywhere on the line)."),  # noqa: ARG001
) -> None:
    """Train one neural network for many tasks, and learn honestly whether sharing paid off."""
    if version:
        from polytask import __version__

        typer.echo(__version__)
        raise typer.Exit


app.command()(demo.demo)
app.command()(init.init)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(inspect.methods)
app.command()(inspect.schema)
app.command()(inspect.validate)
app.command()(inspect.render)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error ends in one line on standard error.

    Args:
        arguments: The words of the command; None: those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    logger = logging.getLogger("polytask")
    handlers, level = list(logger.handlers), logger.level
    try:
        app([word for word in words if word != "--debug"])
    except UserError as error:
        if debug:
            raise
        _complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        _complain(f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)")
        sys.exit(1)
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)


def _complain(message: str) -> None:
    typer.echo(f"polytask: {message}", err=True)
