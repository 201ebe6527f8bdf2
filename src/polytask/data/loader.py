"""Batches of rows, epoch by epoch."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from polytask.data.batch import Batch
from polytask.data.encoded_rows import EncodedRows
from polytask.data.request import Fetched, Request, Share
from polytask.data.streams import Stream
from polytask.data.table import Table
from polytask.errors import UserError

log = logging.getLogger("polytask")

_SHOWN = 20


class Order(Protocol):
    """Which rows make up which batch."""

    def __len__(self) -> int:
        """The number of batches of the pass that comes next."""

    def __iter__(self) -> Iterator[Request]:
        """Its batches."""


class Loader:
    """An iterable of batches.

    The order of the rows, and what augmentation makes of them, depend on what `order` asks for alone: not on the number
    of worker processes, nor on what was drawn before.

    Args:
        encoded: The rows.
        table: Where they come from, for messages.
        order: Which of them make up which batch.
        workers: Processes that prepare batches. None is started where batches are ready in memory.
        pin_memory: Put batches into page-locked memory, from where they reach a GPU sooner.
        share: The part of each batch that is this process's work.

    Raises:
        UserError: There is no row.
    """

    def __init__(
        self,
        encoded: EncodedRows,
        table: Table,
        order: Order,
        *,
        workers: int = 0,
        pin_memory: bool = False,
        share: Share = Share(),  # noqa: B008 (a tuple)
    ) -> None:
        if workers < 0:
            raise UserError(f"workers is {workers}, but must be at least 0.")
        self._table = table
        self._encoded = encoded
        self._unreadable: dict[int, str] = {}
        self.note_unreadable(encoded.failures)
        self._empty_reported = False
        self._report_empty(encoded.empty)
        if len(encoded) == 0:
            raise UserError(f"{table.source}: there is no row to make a batch of.")
        self.order = order
        self._share = share
        self._workers = workers if encoded.costly else 0
        self._loader = DataLoader(
            encoded,
            batch_size=None,
            sampler=_Requests(order, share),
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            # Of its own, because each pass draws a number that would otherwise come from torch's global generator.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the current epoch; those of which no row can be read are left out.

        Not where several processes have their parts of each batch: they count batches together.
        """
        fetched = self.fetched()
        return (each.batch for each in fetched if len(each.batch) or self._share.processes > 1)

    def fetched(self) -> Iterator[Fetched]:
        """What became of each request of the current epoch.

        Raises:
            UserError: A row cannot be read, and may not be left out.
        """
        with _quiet_tokenizers(self._workers > 0):
            started = iter(self._loader)
        return self._checked(started)

    @property
    def rows(self) -> np.ndarray:
        """The positions, in the table, of the rows that batches are made of."""
        return self._encoded.rows

    @property
    def encoded(self) -> EncodedRows:
        """The rows themselves, for batches beside those of the order."""
        return self._encoded

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Why rows are left out, by their position in the table, as far as it is known yet."""
        return self._unreadable

    @property
    def skipped(self) -> int:
        """How many rows are left out because they cannot be read, as far as it is known yet."""
        return len(self._unreadable)

    def _checked(self, fetched: Iterator[Fetched]) -> Iterator[Fetched]:
        empty = 0
        for each in fetched:
            if each.error is not None:
                raise UserError(each.error)
            self.note_unreadable(each.failures)
            empty += each.empty if each.view is None else 0
            yield each
        self._report_empty(empty)

    def note_unreadable(self, failures: Mapping[int, str]) -> None:
        """Note rows that are left out, by their position in the table, and log each once."""
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


class InOrder(Order):
    """The rows as they are given.

    Args:
        rows: How many there are.
        batch_size: Rows in a batch; the last one may have fewer.
    """

    def __init__(self, rows: int, batch_size: int) -> None:
        self._rows = rows
        self._batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(self._rows / self._batch_size)

    def __iter__(self) -> Iterator[Request]:
        for start in range(0, self._rows, self._batch_size):
            yield Request(0, np.arange(start, min(start + self._batch_size, self._rows)))


class Shuffled(Order):
    """All rows in random order, epoch after epoch.

    Args:
        stream: The rows.

    Attributes:
        epoch: The epoch that comes next, counted from 0.
    """

    def __init__(self, stream: Stream) -> None:
        self.epoch = 0
        self._stream = stream

    def __len__(self) -> int:
        return self._stream.steps

    def __iter__(self) -> Iterator[Request]:
        start = self.epoch * self._stream.steps
        return (self._request(start + step) for step in range(self._stream.steps))

    def _request(self, step: int) -> Request:
        turn, (rows,) = self._stream.step(step)
        return Request(turn, rows)


class _Requests(Sampler[Request]):
    """An order as the DataLoader wants it."""

    def __init__(self, order: Order, share: Share) -> None:
        self._order = order
        self._share = share

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Request]:
        return map(self._share.of, self._order)


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
