"""The rows of a loader, encoded once where they fit in memory, else each time they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from polytask.data.batch import Batch, labelled_rows
from polytask.data.encoded import Encoded, Encoding, Ragged
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.input import Input, rows_at_once
from polytask.data.inputs.optional import PartialRows
from polytask.data.request import Fetched, Request
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.data.view_target import ViewTarget
from polytask.errors import UserError, listing
from polytask.row_values import RowTargets, spread_values

log = logging.getLogger("polytask")

_LEARNS = {
    "dense": "numbers for each pixel",
    "edges": "the edges of masks",
    "labels": "any number of labels",
    "mask": "a class for each pixel",
    "survival": "times until an event",
    "tags": "a tag for each word",
    "text": "texts",
}


class _Labels(NamedTuple):
    """A task's labels in the rows of a batch, as in `Batch`."""

    target: Tensor | RowTargets
    mask: Tensor
    weight: Tensor | None


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
        self._kept_targets: dict[str, Encoded] = {}
        self._kept_weights: dict[str, Tensor] = {}
        self._kept_inputs: dict[str, Encoded] = {}
        self._keep(cache_bytes)
        streamed = [self._columns(task) for task in targets if task not in self._kept_targets]
        streamed += [self._inputs[name].columns for name in inputs if name not in self._kept_inputs]
        self._streamed = list(dict.fromkeys(column for columns in streamed for column in columns))

    @property
    def costly(self) -> bool:
        """Whether a batch costs enough to be worth worker processes."""
        views = any(target.views_of is not None for target in self._targets.values())
        return bool(self._streamed) or self.augmented or views

    def __len__(self) -> int:
        return len(self.rows)

    def labelled(self, task: str, *, wholly: bool = False) -> np.ndarray:
        """Which of the rows have a label for `task`, bool `[N]`; reads what is not in memory.

        Args:
            task: The task.
            wholly: Whether to count only rows that lack none of the task's labels.
        """
        target = self._targets[task]
        if task in self._kept_targets or wholly:
            counted = _all if wholly else labelled_rows
            return np.concatenate([counted(target.known(values)).numpy() for values in self._all_labels(task)])
        parts = self._table.batches(target.spec.columns, self.rows, size=rows_at_once(target))
        return np.concatenate([target.labelled(part, rows, self._table) for rows, part in parts])

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
            learns = _LEARNS.get(target.spec.kind, target.spec.kind)
            raise UserError(
                f"class_balanced evens out the classes of a classification, but the task '{task}' learns {learns}. "
                "Allowed for it: shuffled, weighted, by_length."
            )
        found = [cast("Tensor", target.labels(values, None)[0]) for values in self._all_labels(task)]
        return torch.cat(found).numpy()

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
                lengths = values.lengths if isinstance(values, Ragged | PartialRows) else None
                if lengths is None:
                    break
                found[start : start + len(values)] += lengths
                start, ragged = start + len(values), ragged or bool(lengths.any())
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
        kept = _without(rows, failures) if failures else None
        draws = None if self._seed is None else Draws(self._seed, request.epoch, gentle=request.view == 0)
        labels = self._labels(request, part, kept, draws)
        if kept is not None:
            rows = rows[kept]
            encodings = {name: Encoding(encoding.values.select(kept)) for name, encoding in encodings.items()}
        inputs = {name: self._inputs[name].collate(encodings[name].values, rows, draws) for name in self._inputs}
        empty = sum(encoding.empty for encoding in encodings.values())
        views = self._views(labels, inputs, rows, draws)
        targets = {task: each.target for task, each in labels.items()}
        masks = {task: each.mask for task, each in labels.items()}
        weights = {task: each.weight for task, each in labels.items() if each.weight is not None}
        batch = Batch.of(inputs, targets, masks, torch.from_numpy(rows), weights, views=views)
        return Fetched(batch, failures, empty, None, request.step, request.view)

    def _encoding(self, name: str, positions: np.ndarray, rows: np.ndarray, part: pa.Table | None) -> Encoding:
        if name in self._kept_inputs:
            return Encoding(self._kept_inputs[name].select(positions))
        return self._inputs[name].encode(part, rows, self._table)

    def _views(
        self, labels: dict[str, _Labels], inputs: Mapping[str, Any], rows: np.ndarray, draws: Draws | None
    ) -> dict[str, tuple[Mapping[str, Any], ...]]:
        """What tasks without labels read of the rows, as in `Batch`; in `labels` comes what they are to answer."""
        views: dict[str, tuple[Mapping[str, Any], ...]] = {}
        for task, label in labels.items():
            target = self._targets[task]
            if isinstance(target, ViewTarget) and target.views_of is not None:
                name = target.views_of
                versions, answer, mask = target.viewed(inputs[name], rows, label.mask, draws)
                labels[task] = _Labels(answer, mask, label.weight)
                if versions:
                    views[task] = tuple({name: version} for version in versions)
        return views

    def _labels(
        self, request: Request, part: pa.Table | None, kept: np.ndarray | None, draws: Draws | None
    ) -> dict[str, _Labels]:
        """Target, mask and weight of the rows that are kept (all for None), by task."""
        tasks = tuple(self._targets) if request.tasks is None else request.tasks
        known: dict[str, Any] = {"part": part, "kept": kept, "draws": draws}
        if request.sizes is None:
            everything = slice(0, len(request.positions))
            return {task: self._label(task, request.positions, everything, **known) for task in tasks}
        labels, start = {}, 0
        for task, size in zip(tasks, request.sizes, strict=True):
            labels[task] = self._label(task, request.positions, slice(start, start + size), **known)
            start += size
        return labels

    def _label(
        self,
        task: str,
        positions: np.ndarray,
        own: slice,
        *,
        part: pa.Table | None,
        kept: np.ndarray | None,
        draws: Draws | None,
    ) -> _Labels:
        """The labels of a task in its `own` rows of a request; the other rows have none."""
        target, mine = self._targets[task], positions[own]
        rows = self.rows[mine]
        if task in self._kept_targets:
            values, weight = self._kept_targets[task].select(mine), self._kept_weights.get(task)
            weight = None if weight is None else weight[torch.from_numpy(mine)]
        else:
            # Without any column to read there are no columns.
            own_part = None if part is None else part.slice(own.start, own.stop - own.start)
            values, weight = self._read(task, own_part, rows)
        start, total = own.start, len(positions)
        if kept is not None:
            chosen = kept[(kept >= own.start) & (kept < own.stop)] - own.start
            start, total = int(np.searchsorted(kept, own.start)), len(kept)
            values, rows = values.select(chosen), rows[chosen]
            weight = None if weight is None else weight[torch.from_numpy(chosen)]
        source = None if target.follows is None else self._inputs[target.follows]
        labels = target.labels(values, None if source is None else source.geometry(rows, draws))
        if len(rows) == total:
            return _Labels(*labels, weight)
        spread = [spread_values(each, start, total) for each in labels]
        return _Labels(spread[0], spread[1], None if weight is None else spread_values(weight, start, total))

    def _all_labels(self, task: str) -> Iterator[Encoded]:
        """The labels of all rows, in parts; reads what is not in memory."""
        if task in self._kept_targets:
            yield self._kept_targets[task]
            return
        target = self._targets[task]
        for rows, part in self._table.batches(target.columns, self.rows, size=rows_at_once(target)):
            yield target.read(part, rows, self._table)

    def _columns(self, task: str) -> tuple[str, ...]:
        target = self._targets[task]
        weight = None if self._seed is None else target.spec.sample_weight
        return target.columns if weight is None else (*target.columns, weight)

    def _read(self, task: str, part: pa.Table, rows: np.ndarray) -> tuple[Encoded, Tensor | None]:
        """The labels of some rows, and what each of them counts."""
        target = self._targets[task]
        values = target.read(part, rows, self._table)
        weighted = self._seed is not None and target.spec.sample_weight is not None
        return values, target.weights(part, rows, self._table) if weighted else None

    def _keep(self, budget: int) -> None:
        """Encode what fits."""
        for task, target in self._targets.items():
            weights: list[Tensor] = []
            encode = partial(self._encode_labels, task, weights)
            found = self._encoded(self._columns(task), rows_at_once(target), encode, budget)
            if found is not None:
                budget -= found.values.nbytes
                self._kept_targets[task] = found.values
                if weights:
                    self._kept_weights[task] = torch.cat(weights)
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
            chosen = torch.from_numpy(kept)
            self._kept_weights = {task: weights[chosen] for task, weights in self._kept_weights.items()}

    def _encode_labels(
        self, task: str, weights: list[Tensor], part: pa.Table, rows: np.ndarray, table: Table
    ) -> Encoding:
        values, weight = self._read(task, part, rows)
        weights += [] if weight is None else [weight]
        return Encoding(values)

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


def _without(rows: np.ndarray, failures: Mapping[int, str]) -> np.ndarray:
    """The positions of the rows that did not fail."""
    return np.flatnonzero(~np.isin(rows, np.fromiter(failures, dtype=np.int64, count=len(failures))))


def _all(mask: Tensor) -> Tensor:
    return mask if mask.ndim == 1 else mask.flatten(1).all(dim=1)
