"""A configuration for a table that trains as it is: the work of `polytask init`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from polytask.config.document import write_inline
from polytask.config.proposed_input import ProposedInput, propose_input
from polytask.config.proposed_task import RARE, ProposedTask, propose_task, sample
from polytask.data.class_names import class_names
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing

_PARTS = {"train", "training", "valid", "validation", "val", "dev", "test", "testing"}
_STEPS = 3000


def propose(table: Table, source: str, targets: Sequence[str]) -> str:
    """A commented configuration.

    Args:
        table: The data.
        source: Where the configuration says that they are.
        targets: The columns to predict.

    Returns:
        YAML text.

    Raises:
        UserError: A target is not a column or cannot be learned, or nothing is left to predict from.
    """
    _check(table, targets)
    divider = _divider(table, targets)
    tasks = _named([propose_task(table, column) for column in targets])
    chosen = propose_input(table, [*targets, *([divider] if divider else [])])
    split = _split(table, list(tasks.values()), divider)
    lines = [
        f"# Proposed by polytask init: {len(table):,} rows, {len(table.columns)} columns. Change what you know better.",
        "# All that can be set: polytask schema. What is set, defaults included: polytask render FILE.",
        "data:",
        f"  train: {write_inline(source)}",
        f"  split: {write_inline(split)}",
        "inputs:",
        *(f"  # {comment}" for comment in chosen.comments),
        f"  {chosen.name}: {write_inline(_without(chosen, divider))}",
        "tasks:",
    ]
    for name, task in tasks.items():
        component = dict(task.component)
        if task.smallest is not None and task.smallest < RARE and task.column not in _columns(split):
            component["unseen"] = "unknown"
        lines += [f"  # {_one_line(task.comment)}", f"  {write_inline(name)}: {write_inline(component)}"]
    lines += [
        "model:",
        f"  encoders: {write_inline({chosen.name: chosen.encoder})}",
        "  sharing: {type: hard}   # share_until: a stage or a number shares only the first stages",
        "balancing: {type: equal}   # compare with: polytask train FILE balancing=uncertainty",
        *_training(len(table), chosen),
    ]
    return "\n".join(lines) + "\n"


def _check(table: Table, targets: Sequence[str]) -> None:
    if not targets:
        raise UserError(f"Say which columns of {table.source} to predict. It has: {listing(table.columns, limit=40)}.")
    for column in targets:
        if column not in table.columns:
            raise UserError(
                f"{table.source} has no column '{column}'.{closest(column, table.columns)} "
                f"Its columns: {listing(table.columns, limit=40)}."
            )
    if len(set(targets)) != len(targets):
        raise UserError(f"A target is named twice: {listing(targets)}.")


def _named(tasks: Sequence[ProposedTask]) -> dict[str, ProposedTask]:
    """The tasks by names that have no dots or slashes, and differ."""
    named: dict[str, ProposedTask] = {}
    for task in tasks:
        name = base = re.sub(r"[./]+", "_", task.column).strip() or "target"
        number = 1
        while name in named:
            number += 1
            name = f"{base}_{number}"
        named[name] = task
    return named


def _divider(table: Table, targets: Sequence[str]) -> str | None:
    """A column that says which part a row is in."""
    for column in table.columns:
        if column not in targets and re.fullmatch(r"split|part|partition|subset|set|fold", column.strip().lower()):
            values = sample(table, column)
            names = {name.strip().lower() for name in class_names(values).drop_null().unique().to_pylist()}
            if names <= _PARTS and names & {"train", "training"} and not values.null_count:
                return column
    return None


def _split(table: Table, tasks: Sequence[ProposedTask], divider: str | None) -> dict[str, Any]:
    if divider is not None:
        return {"by": "column", "column": divider}
    share = 0.1 if len(table) >= 1000 else 0.2
    shares = {"valid": share, "test": share, "seed": 0}
    rarest = min(((task.smallest, task.column) for task in tasks if task.smallest is not None), default=None)
    if rarest is None:
        return {"by": "random", **shares}
    return {"by": "stratified", "column": rarest[1], **shares}


def _columns(split: Mapping[str, Any]) -> list[str]:
    return [split["column"]] if split["by"] == "stratified" else []


def _without(chosen: ProposedInput, divider: str | None) -> dict[str, Any]:
    """The input without the column that splits: it says nothing of the targets."""
    if divider is None or chosen.component.get("columns") != "*":
        return chosen.component
    return {**chosen.component, "exclude": [*chosen.component.get("exclude", []), divider]}


def _training(rows: int, chosen: ProposedInput) -> list[str]:
    wanted = 32 if rows < 2_000 else 64 if rows < 20_000 else 256 if rows < 200_000 else 1024
    batch = min(wanted, chosen.largest_batch)
    epochs = min(60, max(5, round(_STEPS * batch / rows)))
    patience = max(5, math.ceil(epochs / 5))
    return [
        "training:",
        f"  epochs: {epochs}",
        f"  batch_size: {batch}",
        f"  optimizer: {{type: adamw, lr: {chosen.lr:g}}}",
        "  lr_schedule: {type: cosine, warmup: 0.05}",
        f"  early_stopping: {{patience: {patience}}}",
        "  seed: 0",
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())
