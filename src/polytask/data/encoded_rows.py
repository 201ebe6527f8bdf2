"""The rows of a loader, encoded once where they fit in memory, else each time they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from polytask.data.batch import Batch
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.encoded import Dense, Encoded, Encoding
from polytask.data.inputs.input import Input, rows_at_once
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError

log = logging.getLogger("polytask")

_TARGET_ROWS = 65_536


class Request(NamedTuple):
    """Rows that are wanted.

    Attributes:
        epoch: Which random numbers augmentation draws.
        positions: int64 `[B]`: positions among the loader's rows.
    """

    epoch: int
    positions: np.ndarray


class Fetched(NamedTuple):
    """What became of a request.

    Attributes:
        batch: The rows, those that could not be encoded left out.
        failures: Why rows are left out, by their position in the table.
        empty: The number of rows with an empty text.
        error: What is wrong with the user's data. A message and not an exception: one that comes out of a worker
            process has the worker's traceback in its message.
    """

    batch: Batch
    failures: Mapping[int, str]
    empty: int
    error: str | None


class EncodedRows(Dataset[Fetched]):
    """Makes batches of a table's rows.

    Args:
        table: The table.
        rows: int64: the rows' positions in it.
        inputs: Fitted inputs by name.
        targets: Fitted targets by task.
        seed: What augmentation draws its random numbers from; None: no augmentation.
        cache_bytes: How much memory encoded rows may take.

    Attributes:
        rows: Those that batches can be made of.
        failures: Why the others cannot, by position, as far as it is known yet.
        empty: The number of rows with an empty text, as far as it is known yet.

    Raises:
        UserError: A row cannot be read.
    """

    def __init__(
        self,
        table: Table,
        rows: np.ndarray,
        inputs: Mapping[str, Input],
        targets: Mapping[str, Target],
        *,
        seed: int | None,
        cache_bytes: int,
    ) -> None:
        self.rows = rows
        self.failures: dict[int, str] = {}
        self.empty = 0
        self._table = table
        self._inputs = dict(inputs)
        self._targets = dict(targets)
        self._seed = seed
        self._kept_targets: dict[str, Dense] = {}
        self._kept_inputs: dict[str, Encoded] = {}
        self._keep(cache_bytes)
        streamed = [self._targets[task].spec.columns for task in targets if task not in self._kept_targets]
        streamed += [self._inputs[name].columns for name in inputs if name not in self._kept_inputs]
        self._streamed = list(dict.fromkeys(column for columns in streamed for column in columns))

    @property
    def costly(self) -> bool:
        """Whether a batch costs enough to be worth worker processes."""
        augmenting = self._seed is not None and any(source.augments for source in self._inputs.values())
        return bool(self._streamed) or augmenting

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: Request) -> Fetched:
        try:
            return self._fetch(request)
        except UserError as error:
            return Fetched(Batch({}, {}, {}, {}, torch.empty(0, dtype=torch.int64)), {}, 0, str(error))

    def _fetch(self, request: Request) -> Fetched:
        positions = request.positions
        rows = self.rows[positions]
        part = self._table.take(rows, self._streamed) if self._streamed else None
        encodings = {name: self._encoding(name, positions, rows, part) for name in self._inputs}
        failures = {row: problem for encoding in encodings.values() for row, problem in encoding.failures.items()}
        targets, masks = {}, {}
        for task in self._targets:
            targets[task], masks[task] = self._target(task, positions, rows, part)
        if failures:
            kept = _without(rows, failures)
            rows = rows[kept]
            encodings = {name: Encoding(encoding.values.select(kept)) for name, encoding in encodings.items()}
            targets, masks = _select(targets, kept), _select(masks, kept)
        draws = None if self._seed is None else Draws(self._seed, request.epoch)
        inputs = {name: self._inputs[name].collate(encodings[name].values, rows, draws) for name in self._inputs}
        empty = sum(encoding.empty for encoding in encodings.values())
        return Fetched(Batch.of(inputs, targets, masks, torch.from_numpy(rows)), failures, empty, None)

    def _encoding(self, name: str, positions: np.ndarray, rows: np.ndarray, part: pa.Table | None) -> Encoding:
        if name in self._kept_inputs:
            return Encoding(self._kept_inputs[name].select(positions))
        return self._inputs[name].encode(part, rows, self._table)

    def _target(
        self, task: str, positions: np.ndarray, rows: np.ndarray, part: pa.Table | None
    ) -> tuple[Tensor, Tensor]:
        if task not in self._kept_targets:
            return self._targets[task].encode(part, rows, self._table)
        kept = self._kept_targets[task].select(positions).tensors
        target, mask = kept["target"], kept.get("mask")
        return target, torch.ones_like(target, dtype=torch.bool) if mask is None else mask

    def _keep(self, budget: int) -> None:
        """Encode what fits."""
        for task, target in self._targets.items():
            found = self._encoded(target.spec.columns, _TARGET_ROWS, _encode_target(target), budget)
            if found is not None:
                dense = found.values
                assert isinstance(dense, Dense)
                budget -= dense.nbytes
                if dense.tensors["mask"].all():
                    del dense.tensors["mask"]
                self._kept_targets[task] = dense
        for name, source in self._inputs.items():
            found = self._encoded(source.columns, rows_at_once(source), source.encode, budget)
            if found is not None:
                budget -= found.values.nbytes
                self._kept_inputs[name] = found.values
                self.failures |= found.failures
                self.empty += found.empty
        if self.failures:
            kept = _without(self.rows, self.failures)
            self.rows = self.rows[kept]
            self._kept_inputs = {name: values.select(kept) for name, values in self._kept_inputs.items()}
            self._kept_targets = {task: values.select(kept) for task, values in self._kept_targets.items()}

    def _encoded(
        self,
        columns: Sequence[str],
        size: int,
        encode: Callable[[pa.Table, np.ndarray, Table], Encoding],
        budget: int,
    ) -> Encoding | None:
        """All rows, or None as soon as it shows that they take more than `budget` bytes."""
        parts: list[Any] = []
        failures: dict[int, str] = {}
        used, done, empty = 0, 0, 0
        for rows, part in self._table.batches(columns, self.rows, size=size):
            encoding = encode(part, rows, self._table)
            parts.append(encoding.values)
            failures |= encoding.failures
            empty += encoding.empty
            used, done = used + encoding.values.nbytes, done + len(rows)
            if used / done * len(self.rows) > budget:
                return None
        return Encoding(type(parts[0]).join(parts), failures, empty)


def _encode_target(target: Target) -> Callable[[pa.Table, np.ndarray, Table], Encoding]:
    def encode(part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        values, mask = target.encode(part, rows, table)
        return Encoding(Dense({"target": values, "mask": mask}))

    return encode


def _without(rows: np.ndarray, failures: Mapping[int, str]) -> np.ndarray:
    """The positions of the rows that did not fail."""
    return np.flatnonzero(~np.isin(rows, np.fromiter(failures, dtype=np.int64, count=len(failures))))


def _select(tensors: Mapping[str, Tensor], kept: np.ndarray) -> dict[str, Tensor]:
    return {name: tensor[torch.from_numpy(kept)] for name, tensor in tensors.items()}
