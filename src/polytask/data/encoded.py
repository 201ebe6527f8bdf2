"""Encoded rows of an input, in the form in which a loader keeps them in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

_LONG = 512
"""Rows that have more values than this on average are copied one by one."""


class Encoded(ABC):
    """N encoded rows."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes in memory."""

    @abstractmethod
    def select(self, positions: np.ndarray) -> Self:
        """The rows at `positions` (int64), in that order."""

    @classmethod
    @abstractmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one part after the other."""


class Dense(Encoded):
    """Rows of one size each: tensors by name, with the rows along dimension 0."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    @property
    def nbytes(self) -> int:
        """See `Encoded.nbytes`."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def select(self, positions: np.ndarray) -> Self:
        """See `Encoded.select`."""
        index = torch.from_numpy(positions)
        return type(self)({name: tensor.index_select(0, index) for name, tensor in self.tensors.items()})

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """See `Encoded.join`."""
        names = parts[0].tensors
        return cls({name: torch.cat([part.tensors[name] for part in parts]) for name in names})


class Ragged(Encoded):
    """Rows of different lengths, one after the other.

    Args:
        values: `[total, ...]`: the rows' values.
        lengths: int64 `[N]`: how many of them each row has.
    """

    def __init__(self, values: np.ndarray, lengths: np.ndarray) -> None:
        self.values = values
        self.lengths = lengths
        self._starts = np.cumsum(lengths) - lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """See `Encoded.nbytes`."""
        return int(self.values.nbytes + self.lengths.nbytes + self._starts.nbytes)

    def select(self, positions: np.ndarray) -> Self:
        """See `Encoded.select`."""
        return self._gather(self._starts[positions], self.lengths[positions])

    def window(self, skip: int | np.ndarray, lengths: np.ndarray) -> Self:
        """Of each row, `lengths` values from the one at `skip` on, one number for all or one each."""
        return self._gather(self._starts + skip, lengths)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """See `Encoded.join`."""
        return cls(np.concatenate([part.values for part in parts]), np.concatenate([part.lengths for part in parts]))

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Self:
        """int32 rows given as lists."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        values = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(lengths.sum()))
        return cls(values, lengths)

    def filled(self, empty: np.ndarray, value: int | np.ndarray) -> Self:
        """The same rows, but with one `value` in those that are `empty` (bool `[N]`)."""
        values = np.insert(self.values, self._starts[empty], value, axis=0)
        return type(self)(values, self.lengths + empty)

    def padded(self, padding: int) -> tuple[Tensor, Tensor]:
        """The rows filled up to the longest one.

        Returns:
            int64 values `[N, T, ...]`, and bool `[N, T]`: true where a value is the row's own. T is at least 1.
        """
        mask = np.arange(max(int(self.lengths.max(initial=0)), 1)) < self.lengths[:, None]
        ids = np.full((*mask.shape, *self.values.shape[1:]), padding, dtype=np.int64)
        ids[mask] = self.values
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _gather(self, starts: np.ndarray, lengths: np.ndarray) -> Self:
        if len(lengths) and lengths.sum() > _LONG * len(lengths):
            # Where rows are long, such as recordings, an index of each value would be larger than the values.
            stretches = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
            return type(self)(np.concatenate([self.values[start:stop] for start, stop in stretches]), lengths)
        # Value j of the result, in a row that begins at `new`, is value j - new + start of this.
        new = np.cumsum(lengths) - lengths
        source = np.arange(int(lengths.sum())) + np.repeat(starts - new, lengths)
        return type(self)(self.values[source], lengths)


class GraphRows(Encoded):
    """Graphs, one after the other.

    Args:
        nodes: For each graph, its nodes' codes: integers `[n, F]`.
        edges: For each graph, its edges: int32 `[e, 2 + G]`, the numbers of the nodes in the graph and the codes.
        numbers: For each graph, its nodes' numbers: float32 `[n, M]`; None: they have none.
        edge_numbers: For each graph, its edges' numbers: float32 `[e, M']`; None: they have none.
    """

    def __init__(
        self, nodes: Ragged, edges: Ragged, numbers: Ragged | None = None, edge_numbers: Ragged | None = None
    ) -> None:
        self.nodes = nodes
        self.edges = edges
        self.numbers = numbers
        self.edge_numbers = edge_numbers

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def nbytes(self) -> int:
        """See `Encoded.nbytes`."""
        return sum(part.nbytes for part in self._parts if part is not None)

    def select(self, positions: np.ndarray) -> Self:
        """See `Encoded.select`."""
        nodes, edges, *numbers = (None if part is None else part.select(positions) for part in self._parts)
        assert nodes is not None and edges is not None
        return type(self)(nodes, edges, *numbers)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """See `Encoded.join`."""
        return cls(
            Ragged.join([part.nodes for part in parts]),
            Ragged.join([part.edges for part in parts]),
            _joined([part.numbers for part in parts]),
            _joined([part.edge_numbers for part in parts]),
        )

    @property
    def _parts(self) -> tuple[Ragged | None, ...]:
        return self.nodes, self.edges, self.numbers, self.edge_numbers


def _joined(parts: Sequence[Ragged | None]) -> Ragged | None:
    """The rows of all parts, which are None together."""
    there = [part for part in parts if part is not None]
    return Ragged.join(there) if there else None


class Encoding(NamedTuple):
    """What an input makes of some rows.

    Attributes:
        values: The encoded rows.
        failures: Why rows could not be encoded, by their position in the table. `values` holds a blank for each.
        empty: How many rows are encoded as empty, where that is allowed.
    """

    values: Encoded
    failures: Mapping[int, str] = {}
    empty: int = 0
