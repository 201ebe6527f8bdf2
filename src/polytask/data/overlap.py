"""How many rows are labelled for each task, by which source, and for which tasks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from polytask.data.combined import CombinedTable
from polytask.data.preparation import Preparation
from polytask.data.table import Table

_PART_VALUES = 2**22


@dataclass(frozen=True)
class LabelCounts:
    """Labelled rows of one part of the data.

    Attributes:
        tasks: The K tasks.
        sources: The S sources; none where the data are one table.
        rows: The part's number of rows.
        together: int64 `[K, K]`: rows labelled for both tasks; on the diagonal, for the task.
        by_source: int64 `[K, S]`: rows labelled for the task by the source.
    """

    tasks: Sequence[str]
    sources: Sequence[str]
    rows: int
    together: np.ndarray
    by_source: np.ndarray

    @property
    def labelled(self) -> np.ndarray:
        """Rows labelled for each task, int64 `[K]`."""
        return np.diagonal(self.together)

    @property
    def overlap(self) -> np.ndarray:
        """The share of the rows labelled for task i that are labelled for task j too, float64 `[K, K]`.

        NaN in the row of a task without labels.
        """
        counts = self.labelled[:, None].astype(np.float64)
        shares = np.full(self.together.shape, np.nan)
        np.divide(self.together, counts, out=shares, where=counts > 0)
        return shares

    @property
    def complete(self) -> bool:
        """Whether all tasks are labelled in the same rows."""
        return bool((self.together == self.rows).all())

    def pairs(self) -> list[tuple[str, str, float]]:
        """The pairs of tasks with rows in common, each with its share of the rows of the one with fewer, falling."""
        shares = [
            (self.tasks[i], self.tasks[j], self.together[i, j] / min(self.labelled[i], self.labelled[j]))
            for i, j in combinations(range(len(self.tasks)), 2)
            if self.together[i, j]
        ]
        return sorted(shares, key=lambda pair: -pair[2])

    def as_json(self) -> dict[str, Any]:
        """Plain values: for each task the rows that are labelled, and those of each source."""
        return {
            task: {"labelled": int(self.labelled[i])}
            | ({"by_source": dict(zip(self.sources, self.by_source[i].tolist(), strict=True))} if self.sources else {})
            for i, task in enumerate(self.tasks)
        }


def count_labels(table: Table, rows: np.ndarray, preparation: Preparation) -> LabelCounts:
    """Count labels, in bounded memory.

    A source labels a row for a task if the row comes from it, it has one of the columns of the task's target, and the
    row has a label. For tasks without columns, that need no labels, it is each row with the input.

    Args:
        table: The table.
        rows: int64: the rows' positions in it.
        preparation: The fitted targets.

    Raises:
        UserError: A column is not there, or a value cannot be read.
    """
    targets = list(preparation.targets.values())
    columns = list(dict.fromkeys(column for target in targets for column in target.spec.columns))
    names = table.names if isinstance(table, CombinedTable) else ()
    together = np.zeros((len(targets), len(targets)), dtype=np.int64)
    by_source = np.zeros((len(targets), len(names)), dtype=np.int64)
    for positions, part in table.batches(columns, rows, size=_PART_VALUES // max(len(columns), 1) + 1):
        # Whole numbers below 2**53 are exact in float64, whose product is much faster than that of integers.
        known = [target.labelled(part, positions, table) for target in targets]
        labelled = np.stack(known).astype(np.float64)
        together += (labelled @ labelled.T).astype(np.int64)
        if isinstance(table, CombinedTable):
            by_source += (labelled @ table.sources_of(positions)).astype(np.int64)
    if isinstance(table, CombinedTable):
        by_source *= [
            [not t.spec.columns or not table.columns_of[name].isdisjoint(t.spec.columns) for name in names]
            for t in targets
        ]
    return LabelCounts(tuple(preparation.targets), names, len(rows), together, by_source)
