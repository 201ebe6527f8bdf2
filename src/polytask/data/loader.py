"""Batches of rows, epoch by epoch."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from polytask.data.batch import Batch
from polytask.data.encoded_rows import EncodedRows, Fetched, Request
from polytask.data.table import Table
from polytask.errors import UserError

log = logging.getLogger("polytask")

_SHOWN = 20


class Loader:
    """An iterable of batches.

    The order of the rows, and what augmentation makes of them, depend on the seed, the epoch and the row alone: not on
    the number of worker processes, nor on what was drawn before.

    Args:
        encoded: The rows.
        table: Where they come from, for messages.
        batch_size: Rows in a batch; the last one may have fewer.
        shuffle: Whether each epoch has an order of its own; otherwise the rows come as they are given.
        seed: What the order follows from.
        workers: Processes that prepare batches. None is started where batches are ready in memory.
        pin_memory: Put batches into page-locked memory, from where they reach a GPU sooner.
        drop_last: Leave out a last batch that is not full.

    Raises:
        UserError: There is no row, or not one batch.
    """

    def __init__(
        self,
        encoded: EncodedRows,
        table: Table,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, but must be at least 1.")
        if workers < 0:
            raise UserError(f"workers is {workers}, but must be at least 0.")
        self._table = table
        self._encoded = encoded
        self._unreadable: dict[int, str] = {}
        self._report(encoded.failures)
        self._empty_reported = False
        self._report_empty(encoded.empty)
        if len(encoded) == 0:
            raise UserError(f"{table.source}: there is no row to make a batch of.")
        if drop_last and len(encoded) < batch_size:
            raise UserError(
                f"{table.source}: {len(encoded)} rows do not fill one batch of {batch_size}. Reduce batch_size."
            )
        self._order = _Order(len(encoded), batch_size, shuffle, seed, drop_last)
        self._workers = workers if encoded.costly else 0
        self._loader = DataLoader(
            encoded,
            batch_size=None,
            sampler=self._order,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            # Of its own, because each pass draws a number that would otherwise come from torch's global generator.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the current epoch."""
        with _quiet_tokenizers(self._workers > 0):
            fetched = iter(self._loader)
        return self._batches(fetched)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is, counted from 0."""
        self._order.epoch = epoch

    @property
    def rows(self) -> np.ndarray:
        """The positions, in the table, of the rows that batches are made of."""
        return self._encoded.rows

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Why rows are left out, by their position in the table, as far as it is known yet."""
        return self._unreadable

    @property
    def skipped(self) -> int:
        """How many rows are left out because they cannot be read, as far as it is known yet."""
        return len(self._unreadable)

    def _batches(self, fetched: Iterator[Fetched]) -> Iterator[Batch]:
        empty = 0
        for batch, failures, empties, error in fetched:
            if error is not None:
                raise UserError(error)
            self._report(failures)
            empty += empties
            if len(batch):
                yield batch
        self._report_empty(empty)

    def _report(self, failures: Mapping[int, str]) -> None:
        """Log rows that are left out, once each."""
        for row, problem in failures.items():
            if row not in self._unreadable:
                self._unreadable[row] = problem
                if len(self._unreadable) <= _SHOWN:
                    log.warning("%s is left out: %s.", self._table.locate(row), problem)
                elif len(self._unreadable) == _SHOWN + 1:
                    log.warning("More rows of %s are left out for reasons like these.", self._table.source)

    def _report_empty(self, count: int) -> None:
        if count and not self._empty_reported:
            self._empty_reported = True
            log.info(
                "%s: %d of %d rows have an empty text, which is read as one token that stands for nothing.",
                self._table.source,
                count,
                len(self._encoded),
            )


class _Order(Sampler[Request]):
    """Which rows make up which batch."""

    def __init__(self, rows: int, batch_size: int, shuffle: bool, seed: int, drop_last: bool) -> None:
        self.epoch = 0
        self._rows = rows
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._drop_last = drop_last

    def __len__(self) -> int:
        return self._rows // self._batch_size if self._drop_last else math.ceil(self._rows / self._batch_size)

    def __iter__(self) -> Iterator[Request]:
        positions = np.arange(self._rows)
        if self._shuffle:
            positions = np.random.default_rng([self._seed % 2**63, self.epoch]).permutation(self._rows)
        return self._requests(self.epoch, positions)

    def _requests(self, epoch: int, positions: np.ndarray) -> Iterator[Request]:
        for batch in range(len(self)):
            yield Request(epoch, positions[batch * self._batch_size : (batch + 1) * self._batch_size])


def _as_it_is(fetched: Any) -> Any:
    return fetched


@contextmanager
def _quiet_tokenizers(workers: bool) -> Iterator[None]:
    """Start worker processes with single-threaded tokenizers.

    Their library is not safe to use in parallel after a fork; unless it is told, it notices that itself and warns once
    per process.
    """
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    if workers:
        os.environ[name] = "false"
    try:
        yield
    finally:
        if workers:
            del os.environ[name]
            if before is not None:
                os.environ[name] = before
