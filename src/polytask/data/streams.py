"""Endless streams of rows, whose state is one number."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from polytask.data.random_bits import keys_of, mixed

PassOrder = Callable[[int, int], np.ndarray]
"""The order of some passes: the number of the first, counted from 0, and that after the last, to positions among the
stream's rows, int64 `[passes, n]`, in a new array."""

_STEPS_AHEAD = 64
_ROWS_AHEAD = 2**18


class Drawn(NamedTuple):
    """The rows of one step.

    Attributes:
        turn: What augmentation draws its random numbers from, so that a row is another each time it is drawn.
        batches: Positions among the loader's rows, int64, one array for each batch of the step.
    """

    turn: int
    batches: list[np.ndarray]


class Stream:
    """Batches from some rows, pass after pass, each pass in an order of its own.

    Step `n` follows from `n` alone, so that a stream has no state to be saved. A pass is complete: its last batch, and
    its last step, may be smaller.

    Args:
        positions: int64 `[n]`: the rows' positions among those of the loader.
        order: Orders the rows of a pass.
        batch_size: Rows in a batch.
        batches: Batches in a step.
        repeats: Whether a pass may draw a row several times.
    """

    def __init__(
        self, positions: np.ndarray, order: PassOrder, *, batch_size: int, batches: int = 1, repeats: bool = False
    ) -> None:
        self._positions = positions
        self._order = order
        self._batch_size = batch_size
        self._batches = batches
        self._repeats = repeats
        self._known: tuple[int, np.ndarray] = (-1, positions)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._positions)

    @property
    def steps(self) -> int:
        """Steps in one pass."""
        return -(-len(self._positions) // (self._batch_size * self._batches))

    def batches_in(self, number: int) -> int:
        """How many batches a step has."""
        left = len(self) - number % self.steps * self._batch_size * self._batches
        return min(self._batches, -(-left // self._batch_size))

    def step(self, number: int) -> Drawn:
        """The rows of a step, counted from 0 through all passes."""
        turn, step = divmod(number, self.steps)
        if self._known[0] != turn:
            self._known = turn, self._positions[self._order(turn, turn + 1)[0]]
        size = self._batch_size * self._batches
        rows = self._known[1][step * size : (step + 1) * size]
        batches = [rows[start : start + self._batch_size] for start in range(0, len(rows), self._batch_size)]
        # A row that a pass draws twice is to be augmented in two ways, as far as the draws are in different steps.
        return Drawn(number if self._repeats else turn, batches)


class SeparateStreams:
    """Batches put together from several streams: some rows of each.

    Here a pass goes over into the next one within a batch, so that all batches have the same number of rows of each
    stream. Step `n` follows from `n` alone.

    Args:
        rows: For each stream, int64 `[n]`: its rows' positions among those of the loader.
        orders: Order the rows of a pass, one for each stream.
        batch_sizes: How many rows of each stream are in a batch; where it has fewer, all of them.
        batches: Batches in a step.
    """

    def __init__(
        self, rows: Sequence[np.ndarray], orders: Sequence[PassOrder], *, batch_sizes: Sequence[int], batches: int = 1
    ) -> None:
        self._streams = [_Endless(each, order) for each, order in zip(rows, orders, strict=True)]
        self._batches = batches
        self.sizes = tuple(min(size, len(each)) for size, each in zip(batch_sizes, rows, strict=True))
        self.lengths = tuple(map(len, rows))
        # Some steps are prepared at once: what is done for each stream then costs little a step.
        self._ahead = max(1, min(_STEPS_AHEAD, _ROWS_AHEAD // (sum(self.sizes) * batches)))
        self._known: tuple[int, np.ndarray] = (-1, np.empty(0))

    @property
    def steps(self) -> tuple[int, ...]:
        """For each stream, the steps in one pass, the last of which may go over into the next pass."""
        return tuple(
            -(-length // (size * self._batches)) for length, size in zip(self.lengths, self.sizes, strict=True)
        )

    def step(self, number: int) -> Drawn:
        """The rows of a step: in each batch those of the first stream, then those of the second, and so on."""
        block, place = divmod(number, self._ahead)
        if self._known[0] != block:
            self._known = block, self._prepared(block * self._ahead)
        return Drawn(number, list(self._known[1][place]))

    def _prepared(self, first: int) -> np.ndarray:
        """int64 `[steps, batches, rows]`: some steps from `first` on."""
        parts = []
        for stream, size in zip(self._streams, self.sizes, strict=True):
            in_step = size * self._batches
            drawn = stream.rows(first * in_step, (first + self._ahead) * in_step)
            parts.append(drawn.reshape(self._ahead, self._batches, size))
        return np.concatenate(parts, axis=2)


class _Endless:
    """Rows, pass after pass, without a gap between passes."""

    def __init__(self, positions: np.ndarray, order: PassOrder) -> None:
        self._positions = positions
        self._order = order
        self._known: tuple[int, np.ndarray] = (-1, positions)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Those from place `start` up to before `stop`, counted through all passes."""
        length = len(self._positions)
        first, last = start // length, -(-stop // length)
        known, passes = self._known
        if known != first:
            passes = self._positions[self._order(first, last)].ravel()
        elif last > first + 1:
            passes = np.concatenate([passes, self._positions[self._order(first + 1, last)].ravel()])
        # The last pass may not be over yet.
        self._known = last - 1, passes[-length:]
        return passes[start - first * length : stop - first * length]


def shuffled(rows: np.ndarray, *, seed: int, name: str) -> PassOrder:
    """Each pass in a random order.

    A row's place follows from a random number of its own, so that rows which are added leave the order of the others
    as it is.

    Args:
        rows: int64 `[n]`: what tells the rows apart: their positions in their table.
        seed: The run's seed.
        name: Streams of different names have independent orders.
    """
    purpose = zlib.crc32(f"order of {name}".encode())
    marks = rows.astype(np.uint64)
    # The last bits of the random numbers make room for the positions: sorting numbers is several times as fast as
    # finding the order of numbers.
    low = np.uint64(2 ** max(1, len(rows) - 1).bit_length() - 1)
    positions = np.arange(len(rows), dtype=np.uint64)

    def order(first: int, stop: int) -> np.ndarray:
        bits = mixed(marks ^ keys_of(seed, np.arange(first, stop), purpose)[:, None])
        bits &= ~low
        bits |= positions
        bits.sort(axis=1)
        bits &= low
        return bits.view(np.int64)

    return order
