"""What is asked of a loader's rows, and what comes back; both travel between processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from polytask.data.batch import Batch


class Request(NamedTuple):
    """Rows that are wanted.

    Attributes:
        epoch: Which random numbers augmentation draws.
        positions: int64 `[B]`: positions among the loader's rows.
        tasks: The tasks whose targets are wanted; None: all.
        step: The step of the epoch that the batch is part of.
        sizes: How many of the rows, in order, were drawn for each of the tasks: they count for no other task. None: all
            rows count for all of them.
        view: Which of the two views of rows without labels it is: 0, the reference, augmented gently alone, or 1; see
            `polytask.training.views`. None: the rows are to be learned from by their labels.
    """

    epoch: int
    positions: np.ndarray
    tasks: tuple[str, ...] | None = None
    step: int = 0
    sizes: tuple[int, ...] | None = None
    view: int | None = None


class Share(NamedTuple):
    """The part of each batch that is one process's work: every so many rows, from one of the first on.

    Attributes:
        rank: The row that it begins with: the number of the process.
        processes: How many processes there are.
    """

    rank: int = 0
    processes: int = 1

    def of(self, request: Request) -> Request:
        """The part of a request; there may be no row in it."""
        if self.processes == 1:
            return request
        chosen = np.arange(self.rank, len(request.positions), self.processes)
        sizes = request.sizes
        if sizes is not None:
            ends = np.searchsorted(chosen, np.cumsum(sizes))
            sizes = tuple(np.diff(ends, prepend=0).tolist())
        return request._replace(positions=request.positions[chosen], sizes=sizes)


class Fetched(NamedTuple):
    """What became of a request.

    Attributes:
        batch: The rows, those that could not be encoded left out.
        failures: Why rows are left out, by their position in the table.
        empty: The number of rows with an empty text.
        error: What is wrong with the user's data. A message and not an exception: one that comes out of a worker
            process has the worker's traceback in its message.
        step: As in the request.
        view: As in the request.
    """

    batch: Batch
    failures: Mapping[int, str]
    empty: int
    error: str | None
    step: int = 0
    view: int | None = None
