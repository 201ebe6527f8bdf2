"""`polytask methods`, `schema`, `validate` and `render`: what there is, and what a configuration means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def methods(
    name: Annotated[str | None, typer.Argument(help="Describe this method and its parameters.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the balancing methods: what each needs to know, what a step costs, and where it comes from."""
    if name is not None:
        _describe(name, json=json)
        return
    from rich.table import Table

    from polytask import balancing
    from polytask.cli.output import console, print_json

    found = {name: balancing.family.get(name) for name in balancing.names()}
    if json:
        print_json(
            {
                name: {"level": cls.level, "passes": cls.passes, "paper": cls.paper, "year": cls.year}
                for name, cls in found.items()
            }
        )
        return
    table = Table(header_style="bold")
    shown = console()
    columns = {"method": max(map(len, found)), "sees": 8, "passes": 6, "year": 4}
    for column in (*columns, "paper"):
        table.add_column(column, no_wrap=True)
    # One line a method: only the paper gives way in a narrow window.
    room = max(20, shown.width - sum(columns.values()) - 3 * len(columns) - 4)
    for level in ("loss", "gramian", "jacobian"):
        for method, cls in found.items():
            if cls.level == level:
                paper = cls.paper if len(cls.paper) <= room else cls.paper[: room - 1] + "…"
                table.add_row(method, cls.level, cls.passes, str(cls.year), paper)
        table.add_section()
    shown.print(table)
    shown.print("passes: backward passes through what is shared in a step, at most; K: one a task.")
    shown.print("All about one method: [bold]polytask methods NAME[/bold]")


def _describe(name: str, *, json: bool) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from polytask.cli.output import console, print_json
    from polytask.config.families import Kind
    from polytask.config.reference import entry_of

    entry = entry_of(Kind.BALANCER, name)
    if json:
        print_json(asdict(entry))
        return
    shown = console()
    shown.print(entry.description, markup=False, highlight=False)
    if entry.settings:
        table = Table(header_style="bold")
        for column in ("parameter", "takes", "default", "what it does"):
            table.add_column(column)
        for setting in entry.settings:
            default = "(must be given)" if setting.default is None else setting.default
            table.add_row(setting.name, setting.type, default, setting.description)
        shown.print(table)


def schema() -> None:
    """Print the configuration's JSON schema, for completion and checking in an editor."""
    from polytask.cli.output import print_json
    from polytask.config import json_schema

    print_json(json_schema())


def validate(
    config: Annotated[Path, typer.Argument(help="A YAML configuration.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to it.", metavar="KEY=VALUE")] = None,
) -> None:
    """Check a configuration, without reading the data (train --dry-run checks these too)."""
    from polytask.config import load_config

    load_config(config, overrides or [])
    typer.echo(f"{config}: valid")


def render(
    config: Annotated[Path, typer.Argument(help="A YAML configuration.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to it.", metavar="KEY=VALUE")] = None,
) -> None:
    """Print the complete configuration: every default and every override."""
    from polytask.config import load_config

    typer.echo(load_config(config, overrides or []).to_yaml(), nl=False)
