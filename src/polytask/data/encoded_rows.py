"""The rows of a loader, encoded once where they fit in memory, else each time they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from polytask.data.batch import Batch
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.encoded import Dense, Encoded, Encoding, Ragged
from polytask.data.inputs.input import Input, rows_at_once
from polytask.data.request import Fetched, Request
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError, listing

log = logging.getLogger("polytask")

_TARGET_ROWS = 65_536


class EncodedRows(Dataset[Fetched]):
    """Makes batches of a table's rows.

    Args:
        table: The table.
        rows: int64: the rows' positions in it.
        inputs: Fitted inputs by name.
        targets: Fitted targets by task.
        seed: What augmentation draws its random numbers from; None: not for training, without augmentation, and without
            what rows count in the losses.
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
        streamed = [self._columns(task) for task in targets if task not in self._kept_targets]
        streamed += [self._inputs[name].columns for name in inputs if name not in self._kept_inputs]
        self._streamed = list(dict.fromkeys(column for columns in streamed for column in columns))

    @property
    def costly(self) -> bool:
        """Whether a batch costs enough to be worth worker processes."""
        return bool(self._streamed) or self.augmented

    def __len__(self) -> int:
        return len(self.rows)

    def labelled(self, task: str, *, wholly: bool = False) -> np.ndarray:
        """Which of the rows have a label for `task`, bool `[N]`; reads what is not in memory.

        Args:
            task: The task.
            wholly: Whether to count only rows that lack none of the task's labels.
        """
        counted = _all if wholly else _any
        if task in self._kept_targets:
            mask = self._kept_targets[task].tensors.get("mask")
            return np.ones(len(self), dtype=bool) if mask is None else counted(mask)
        target = self._targets[task]
        parts = self._table.batches(target.spec.columns, self.rows, size=_TARGET_ROWS)
        return np.concatenate([counted(target.encode(part, rows, self._table)[1]) for rows, part in parts])

    @property
    def augmented(self) -> bool:
        """Whether a row looks different each time."""
        return self._seed is not None and any(source.augments for source in self._inputs.values())

    def classes(self, task: str) -> np.ndarray:
        """int64 `[N]`: the class of each row, by its number; 0 where there is none; reads what is not in memory.

        Raises:
            UserError: Rows of this task do not have one class each.
        """
        target = self._targets[task]
        if target.spec.kind != "category":
            learns = {"labels": "any number of labels", "numbers": "numbers"}[target.spec.kind]
            raise UserError(
                f"class_balanced evens out the classes of a classification, but the task '{task}' learns {learns}. "
                "Allowed for it: shuffled, weighted, by_length."
            )
        if task in self._kept_targets:
            return self._kept_targets[task].tensors["target"].numpy()
        parts = self._table.batches(target.spec.columns, self.rows, size=_TARGET_ROWS)
        return np.concatenate([target.encode(part, rows, self._table)[0].numpy() for rows, part in parts])

    def numbers(self, column: str, positions: np.ndarray) -> tuple[np.ndarray, Callable[[int], str]]:
        """A column of the table.

        Args:
            column: The column.
            positions: int64 `[B]`: the rows that are wanted, by their positions among these.

        Returns:
            float64 `[B]`, NaN where it is missing; and what messages call the place of the i-th.

        Raises:
            UserError: There is no such column, or a value is not a finite number.
        """
        rows = self.rows[positions]

        def where(index: int) -> str:
            return f"{self._table.locate(int(rows[index]))}, column '{column}'"

        return self._table.numbers(column, rows), where

    def lengths(self) -> np.ndarray:
        """int64 `[N]`: how many tokens each row has, in all inputs together; reads what is not in memory.

        Raises:
            UserError: No input has rows of different lengths.
        """
        found = np.zeros(len(self), dtype=np.int64)
        ragged = False
        for name, source in self._inputs.items():
            kept = self._kept_inputs.get(name)
            if kept is None:
                parts = self._table.batches(source.columns, self.rows, size=rows_at_once(source))
                encoded: Iterable[Encoded] = (source.encode(part, rows, self._table).values for rows, part in parts)
            else:
                encoded = [kept]
            start = 0
            for values in encoded:
                if not isinstance(values, Ragged):
                    break
                found[start : start + len(values)] += values.lengths
                start, ragged = start + len(values), True
        if not ragged:
            raise UserError(
                f"by_length puts texts of similar length together, but no input has a length: {listing(self._inputs)}. "
                "Allowed here: shuffled, class_balanced, weighted."
            )
        return found

    def __getitem__(self, request: Request) -> Fetched:
        if not len(request.positions):
            return Fetched(_nothing(), {}, 0, None, request.step, request.view)
        try:
            return self._fetch(request)
        except UserError as error:
            return Fetched(_nothing(), {}, 0, str(error))

    def _fetch(self, request: Request) -> Fetched:
        positions = request.positions
        rows = self.rows[positions]
        part = self._table.take(rows, self._streamed) if self._streamed else None
        encodings = {name: self._encoding(name, positions, rows, part) for name in self._inputs}
        failures = {row: problem for encoding in encodings.values() for row, problem in encoding.failures.items()}
        labels = self._labels(request, rows, part)
        if failures:
            kept = _without(rows, failures)
            rows = rows[kept]
            encodings = {name: Encoding(encoding.values.select(kept)) for name, encoding in encodings.items()}
            labels = {task: dense.select(kept) for task, dense in labels.items()}
        draws = None if self._seed is None else Draws(self._seed, request.epoch, gentle=request.view == 0)
        inputs = {name: self._inputs[name].collate(encodings[name].values, rows, draws) for name in self._inputs}
        empty = sum(encoding.empty for encoding in encodings.values())
        targets, masks, weights = (
            {task: dense.tensors[name] for task, dense in labels.items() if name in dense.tensors}
            for name in ("target", "mask", "weight")
        )
        batch = Batch.of(inputs, targets, masks, torch.from_numpy(rows), weights)
        return Fetched(batch, failures, empty, None, request.step, request.view)

    def _encoding(self, name: str, positions: np.ndarray, rows: np.ndarray, part: pa.Table | None) -> Encoding:
        if name in self._kept_inputs:
            return Encoding(self._kept_inputs[name].select(positions))
        return self._inputs[name].encode(part, rows, self._table)

    def _labels(self, request: Request, rows: np.ndarray, part: pa.Table | None) -> dict[str, Dense]:
        """Target, mask and weight of the rows, by task."""
        tasks = tuple(self._targets) if request.tasks is None else request.tasks
        if request.sizes is None:
            return {task: self._label(task, request.positions, rows, part) for task in tasks}
        labels, start = {}, 0
        for task, size in zip(tasks, request.sizes, strict=True):
            own = slice(start, start + size)
            some = None if part is None else part.slice(start, size)
            labels[task] = _among(self._label(task, request.positions[own], rows[own], some), start, len(rows))
            start += size
        return labels

    def _label(self, task: str, positions: np.ndarray, rows: np.ndarray, part: pa.Table | None) -> Dense:
        if task not in self._kept_targets:
            return self._read(task, part, rows)
        kept = self._kept_targets[task].select(positions).tensors
        kept.setdefault("mask", torch.ones_like(kept["target"], dtype=torch.bool))
        return Dense(kept)

    def _columns(self, task: str) -> tuple[str, ...]:
        spec = self._targets[task].spec
        return spec.columns if self._seed is None or spec.sample_weight is None else (*spec.columns, spec.sample_weight)

    def _read(self, task: str, part: pa.Table | None, rows: np.ndarray) -> Dense:
        target = self._targets[task]
        values, mask = target.encode(part, rows, self._table)
        tensors = {"target": values, "mask": mask}
        if self._seed is not None and target.spec.sample_weight is not None:
            tensors["weight"] = target.weights(part, rows, self._table)
        return Dense(tensors)

    def _keep(self, budget: int) -> None:
        """Encode what fits."""
        for task in self._targets:
            found = self._encoded(self._columns(task), _TARGET_ROWS, partial(self._encode_labels, task), budget)
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

    def _encode_labels(self, task: str, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        return Encoding(self._read(task, part, rows))

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


def _nothing() -> Batch:
    return Batch({}, {}, {}, {}, torch.empty(0, dtype=torch.int64))


def _among(labels: Dense, start: int, rows: int) -> Dense:
    """Labels of some rows, from the one at `start` on, as those of all `rows`, the others of which have none."""
    tensors = {}
    for name, values in labels.tensors.items():
        tensors[name] = values.new_zeros((rows, *values.shape[1:]))
        tensors[name][start : start + len(values)] = values
    return Dense(tensors)


def _without(rows: np.ndarray, failures: Mapping[int, str]) -> np.ndarray:
    """The positions of the rows that did not fail."""
    return np.flatnonzero(~np.isin(rows, np.fromiter(failures, dtype=np.int64, count=len(failures))))


def _any(mask: Tensor) -> np.ndarray:
    return (mask if mask.ndim == 1 else mask.any(dim=1)).numpy()


def _all(mask: Tensor) -> np.ndarray:
    return (mask if mask.ndim == 1 else mask.all(dim=1)).numpy()
