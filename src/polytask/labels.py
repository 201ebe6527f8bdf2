"""What a task asks of its target columns, and what the training part answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

TargetKind = Literal["category", "labels", "numbers"]


@dataclass(frozen=True)
class TargetSpec:
    """How a task's target columns are to be read.

    Attributes:
        kind: `category`: one column, one class a row. `labels`: any number of classes a row, either several yes/no
            columns or one column of lists (or of text with a separator). `numbers`: one or several numeric columns.
        columns: The columns, in order.
        classes: The classes in order when the user fixed them; None: found on the training part.
        unseen: What a class that the training part does not have does later: `error`, or `unknown`, an extra class.
        separator: What separates the labels in a text column of kind `labels`.
        sources: The data sets, by name, that the labels are taken from; None: all that have the columns.
        sample_weight: The column with what each row counts in the mean loss; None: all the same.
    """

    kind: TargetKind
    columns: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    unseen: Literal["error", "unknown"] = "error"
    separator: str = "|"
    sources: tuple[str, ...] | None = None
    sample_weight: str | None = None


@dataclass(frozen=True)
class TargetSummary:
    """What the training part says about a target; it completes the task's parameters.

    Attributes:
        labelled: Number of training rows that have a label.
        classes: The classes in order (kinds `category` and `labels`).
        counts: Training rows of each class.
        known: Training rows in which it is known whether they have each class (kind `labels`, where each column can be
            blank for itself); empty: all labelled rows.
        mean: Mean of each output over the labelled training rows (kind `numbers`).
        std: Standard deviation of each output, 1 where it is 0.
    """

    labelled: int
    classes: Sequence[str] = field(default=())
    counts: Sequence[int] = field(default=())
    known: Sequence[int] = field(default=())
    mean: Sequence[float] = field(default=())
    std: Sequence[float] = field(default=())
