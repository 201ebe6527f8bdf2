"""Samplers: in which order, and how often, a stream passes its rows."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from polytask.components import Family
from polytask.data.encoded_rows import EncodedRows
from polytask.data.random_bits import keys_of, mixed, uniform
from polytask.data.streams import PassOrder, shuffled
from polytask.errors import UserError, listing


@dataclass(frozen=True)
class StreamRows:
    """The rows of one stream.

    Attributes:
        encoded: The loader's rows.
        positions: int64 `[n]`: those of the stream, among the loader's.
        tasks: The tasks that draw them.
        batch_size: Rows in a batch.
        seed: The run's seed.
        name: Streams of different names are independent.
    """

    encoded: EncodedRows
    positions: np.ndarray
    tasks: tuple[str, ...]
    batch_size: int
    seed: int
    name: str

    def __len__(self) -> int:
        return len(self.positions)

    def shuffled(self) -> PassOrder:
        """Each pass in a random order; see `streams.shuffled`."""
        return shuffled(self.encoded.rows[self.positions], seed=self.seed, name=self.name)

    def uniform(self, purpose: str, first: int, stop: int) -> np.ndarray:
        """float64 `[passes, n]` in [0, 1): a random number for each place in some passes."""
        keys = keys_of(self.seed, np.arange(first, stop), zlib.crc32(f"{purpose} of {self.name}".encode()))
        return uniform(mixed(np.arange(len(self), dtype=np.uint64) ^ keys[:, None]))


class Sampler(ABC):
    """Decides which rows a pass draws, and in which order.

    A pass is a pure function of its number, so that it can be made again when a run is resumed.

    Attributes:
        repeats: Whether a row may be drawn several times in a pass, and another not at all.
        keeps_batches: Whether it decides which rows are in a batch together, so that batches cannot be cut elsewhere.
    """

    repeats: ClassVar[bool] = False
    keeps_batches: ClassVar[bool] = False

    @abstractmethod
    def passes(self, rows: StreamRows) -> PassOrder:
        """The order of each pass over `rows`.

        Raises:
            UserError: The sampler does not fit these rows.
        """


class Shuffled(Sampler):
    """Each row once in a pass, in a random order."""

    def passes(self, rows: StreamRows) -> PassOrder:
        """See `Sampler.passes`."""
        return rows.shuffled()


class ClassBalanced(Sampler):
    """Each class of a task with the same probability: rows are drawn with replacement, as many in a pass as there are.

    First a class is drawn out of the C classes that occur, then one of its rows: a row of a class with `n_c` rows has
    the probability `1 / (C n_c)`. It is for the turns of one task, a classification.
    """

    repeats = True

    def passes(self, rows: StreamRows) -> PassOrder:
        """See `Sampler.passes`."""
        if len(rows.tasks) > 1:
            raise UserError(
                "class_balanced evens out the classes of one task, but a turn of several tasks, "
                f"{listing(rows.tasks)}, has no classes. Allowed: for one task, training.tasks.NAME.sampler, where it "
                "has turns of its own (schedule: alternating, or joint with draw: tasks)."
            )
        classes = rows.encoded.classes(rows.tasks[0])[rows.positions]
        by_class = np.argsort(classes, kind="stable")
        _, starts, counts = np.unique(classes[by_class], return_index=True, return_counts=True)

        def order(first: int, stop: int) -> np.ndarray:
            # A number below 1 times a whole number is below it: these are far from where it would be rounded.
            chosen = (rows.uniform("classes", first, stop) * len(counts)).astype(np.int64)
            within = (rows.uniform("rows", first, stop) * counts[chosen]).astype(np.int64)
            found: np.ndarray = by_class[starts[chosen] + within]
            return found

        return order


class Weighted(Sampler):
    """Each row with a probability in proportion to a number of its own: drawn with replacement.

    A pass draws as many rows as there are.

    Args:
        column: The column with the numbers, at least 0. It is no input, unless it is named as one.
    """

    repeats = True

    def __init__(self, column: str) -> None:
        self.column = column

    def passes(self, rows: StreamRows) -> PassOrder:
        """See `Sampler.passes`."""
        weights, where = rows.encoded.numbers(self.column, rows.positions)
        wrong = np.flatnonzero(~(weights >= 0))
        if len(wrong):
            found = "is missing" if np.isnan(weights[wrong[0]]) else f"is {weights[wrong[0]]:g}"
            raise UserError(
                f"{where(int(wrong[0]))}: this weight of the sampler {found}, but must be a number of at least 0. "
                "0 leaves a row out."
            )
        drawn = np.flatnonzero(weights > 0)
        if not len(drawn):
            raise UserError(
                f"All weights of the sampler in the column '{self.column}' are 0: there is no row to draw for "
                f"{listing(rows.tasks)}."
            )
        # Divided by the greatest first, so that the sum of large ones stays finite.
        ends = np.cumsum(weights[drawn] / weights[drawn].max())

        def order(first: int, stop: int) -> np.ndarray:
            places = rows.uniform("weights", first, stop) * ends[-1]
            found: np.ndarray = drawn[np.minimum(np.searchsorted(ends, places, side="right"), len(drawn) - 1)]
            return found

        return order


class ByLength(Sampler):
    """Rows of similar length (texts, recordings) together in a batch, so that little is padding.

    The rows are shuffled and cut into chunks of many batches; within a chunk they are sorted by length; then the
    batches are shuffled.

    Args:
        chunk: Batches in a chunk: more make lengths more alike, and batches less random.
    """

    keeps_batches = True

    def __init__(self, chunk: int = 50) -> None:
        if chunk < 1:
            raise UserError(f"chunk is {chunk}, but must be at least 1.")
        self.chunk = chunk

    def passes(self, rows: StreamRows) -> PassOrder:
        """See `Sampler.passes`."""
        lengths = rows.encoded.lengths()[rows.positions]
        shuffle = rows.shuffled()
        whole = len(rows) - len(rows) % rows.batch_size

        def one_pass(number: int) -> np.ndarray:
            drawn = shuffle(number, number + 1)[0]
            for start in range(0, len(rows), self.chunk * rows.batch_size):
                part = drawn[start : start + self.chunk * rows.batch_size]
                drawn[start : start + len(part)] = part[np.argsort(lengths[part], kind="stable")]
            # A batch that is not full stays the last one, as without sorting.
            batches = drawn[:whole].reshape(-1, rows.batch_size)
            mixed_up = batches[np.argsort(rows.uniform("batches", number, number + 1)[0, : len(batches)])]
            return np.concatenate([mixed_up.ravel(), drawn[whole:]])

        return lambda first, stop: np.stack([one_pass(number) for number in range(first, stop)])


family: Family[Sampler] = Family(
    "sampler",
    Sampler,
    {"by_length": ByLength, "class_balanced": ClassBalanced, "shuffled": Shuffled, "weighted": Weighted},
)
names = family.names
create = family.create
