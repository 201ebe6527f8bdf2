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
    """

    epoch: int
    positions: np.ndarray
    tasks: tuple[str, ...] | None = None
    step: int = 0
    sizes: tuple[int, ...] | None = None


class Fetched(NamedTuple):
    """What became of a request.

    Attributes:
        batch: The rows, those that could not be encoded left out.
        failures: Why rows are left out, by their position in the table.
        empty: The number of rows with an empty text.
        error: What is wrong with the user's data. A message and not an exception: one that comes out of a worker
            process has the worker's traceback in its message.
        step: As in the request.
    """

    batch: Batch
    failures: Mapping[int, str]
    empty: int
    error: str | None
    step: int = 0
