"""What the parts of the data hold for each task, to be shown before a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polytask.data.batch import labelled_rows
from polytask.data.inputs.input import rows_at_once
from polytask.data.preparation import Preparation
from polytask.data.table import Table
from polytask.data.target import Target


@dataclass(frozen=True)
class TargetRecord:
    """One task's target in one part.

    Attributes:
        task: The task.
        part: `train`, `valid` or `test`.
        rows: The part's number of rows.
        labelled: Rows with a label.
        missing: Rows without any.
        statistics: Mean and standard deviation of the labelled rows, or the balance of the classes.
    """

    task: str
    part: str
    rows: int
    labelled: int
    missing: int
    statistics: str


def describe(parts: Mapping[str, tuple[Table, np.ndarray]], preparation: Preparation) -> list[TargetRecord]:
    """Look at the labels of every task in every part, in bounded memory.

    Args:
        parts: Table and rows (int64 positions) of each part, by name.
        preparation: The fitted targets.

    Returns:
        A record for each task and part, task by task.

    Raises:
        UserError: A column is not there, or a value cannot be read.
    """
    return [
        _record(task, target, part, table, rows)
        for task, target in preparation.targets.items()
        for part, (table, rows) in parts.items()
    ]


def _record(task: str, target: Target, part: str, table: Table, rows: np.ndarray) -> TargetRecord:
    target.check(table)
    tally = target.tally()
    labelled = 0
    for positions, columns in table.batches(target.columns, rows, size=rows_at_once(target)):
        values = target.read(columns, positions, table)
        labelled += int(labelled_rows(target.known(values)).sum())
        tally.add(values)
    return TargetRecord(task, part, len(rows), labelled, len(rows) - labelled, str(tally) if labelled else "no labels")
