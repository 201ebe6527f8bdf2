"""What the parts of the data hold for each task, to be shown before a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from polytask.data.moments import Moments
from polytask.data.preparation import Preparation
from polytask.data.table import Table
from polytask.data.target import Target

_SHOWN = 5


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
    tally = _NumberTally(target) if target.spec.kind == "numbers" else _ClassTally(target)
    labelled = 0
    for values, mask in _encoded(target, table, rows):
        labelled += int((mask if mask.ndim == 1 else mask.any(dim=1)).sum())
        tally.add(values, mask)
    return TargetRecord(task, part, len(rows), labelled, len(rows) - labelled, str(tally) if labelled else "no labels")


def _encoded(target: Target, table: Table, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    for positions, part in table.batches(target.spec.columns, rows):
        yield target.encode(part, positions, table)


class _ClassTally:
    """The share of each class: of the rows (category), or of the rows where it is known (labels)."""

    def __init__(self, target: Target) -> None:
        self._classes = target.summary.classes
        self._counts = np.zeros(len(self._classes), dtype=np.int64)
        self._known = np.zeros(len(self._classes), dtype=np.int64)

    def add(self, values: Tensor, mask: Tensor) -> None:
        if values.ndim == 1:
            self._counts += np.bincount(values[mask].numpy(), minlength=len(self._classes))
            self._known += int(mask.sum())
        else:
            self._counts += values.sum(dim=0).long().numpy()
            self._known += mask.sum(dim=0).numpy()

    def __str__(self) -> str:
        shares = 100 * self._counts / np.maximum(self._known, 1)
        if len(shares) <= _SHOWN:
            return ", ".join(f"{name}: {percent(share)}" for name, share in zip(self._classes, shares, strict=True))
        least, most = int(shares.argmin()), int(shares.argmax())
        return (
            f"{len(shares)} classes, from {percent(shares[least])} ({self._classes[least]}) to {percent(shares[most])} "
            f"({self._classes[most]})"
        )


class _NumberTally:
    """Mean and standard deviation of each column."""

    def __init__(self, target: Target) -> None:
        self._columns = target.spec.columns
        self._moments = Moments(len(self._columns))

    def add(self, values: Tensor, mask: Tensor) -> None:
        self._moments.add(np.where(mask.numpy(), values.numpy(), np.nan).astype(np.float64))

    def __str__(self) -> str:
        texts = [
            f"mean {mean:.4g}, std {std:.4g}" for mean, std in zip(self._moments.mean, self._moments.std, strict=True)
        ]
        if len(texts) == 1:
            return texts[0]
        named = [f"{column}: {text}" for column, text in zip(self._columns, texts, strict=True)]
        more = f"; and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        return "; ".join(named[:_SHOWN]) + more


def percent(share: float) -> str:
    """A share in percent as text; what is not 0 does not look like 0."""
    if 0 < share < 1:
        return "< 1 %"
    return f"{share:.0f} %"
