"""Targets without columns: what is learned comes from an input itself, which the task reads in changed versions."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from polytask.data.combined import CombinedTable
from polytask.data.encoded import Dense, Encoded
from polytask.data.geometry import Geometry
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.input import rows_at_once
from polytask.data.inputs.optional import OptionalInput, rows_with
from polytask.data.table import Table
from polytask.data.target import Tally, Target
from polytask.errors import UserError, closest, listing
from polytask.labels import TargetSpec, TargetSummary
from polytask.partial import PartialInput, whole_rows

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input

_SAMPLE_ROWS = 4096
_SAMPLE_BYTES = 64 * 2**20
_FIXED = Draws(seed=0, epoch=0)
"""What rows that are not for training are changed by: always the same, so that scores can be compared."""


class View(NamedTuple):
    """What a task reads of n rows, and is to answer.

    Attributes:
        versions: What an encoder reads, one or several times.
        target: As in `Batch`, `[n, ...]`.
        mask: As in `Batch`, `[n, ...]`.
    """

    versions: tuple[Any, ...]
    target: Tensor
    mask: Tensor


class ViewTarget(Target):
    """A target that is made from an input. Every row that has the input counts as labelled.

    Attributes:
        modalities: The kinds of input that it can be made from.
    """

    modalities: ClassVar[tuple[str, ...]]
    _source: Input | None = None
    _training: tuple[Table, np.ndarray] | None = None
    _columns: tuple[str, ...] = ()
    _there: tuple[Table, np.ndarray] | None = None

    def __init__(self, task: str, spec: TargetSpec) -> None:
        super().__init__(task, spec)
        self._stream = zlib.crc32(task.encode())

    @property
    def views_of(self) -> str | None:
        """See `Target.views_of`."""
        return self.spec.input

    def follow(self, inputs: Mapping[str, Input]) -> None:
        """See `Target.follow`: find the input, and learn from it."""
        suited = {name: each for name, each in inputs.items() if each.modality in self.modalities}
        wanted = self.spec.input
        if wanted is None and len(suited) == 1:
            (wanted,) = suited
        if wanted not in suited:
            raise self._unsuited(wanted, suited, inputs)
        self.spec = replace(self.spec, input=wanted)
        self._columns = inputs[wanted].columns if len(inputs) > 1 else ()
        self.meet(inputs)
        assert self._training is not None and self._source is not None
        table, rows = self._training
        self._training = None
        rows = rows[self._have(table, rows)]
        if not len(rows):
            raise UserError(
                f"Task '{self.task}': no training row has the input '{wanted}', so there is nothing to learn from."
            )
        self._summary = self._learned(self._source, table, rows)

    def meet(self, inputs: Mapping[str, Input]) -> None:
        """See `Target.meet`."""
        source = inputs.get(self.spec.input or "")
        self._source = source.source if isinstance(source, OptionalInput) else source
        if self._source is not None:
            self._check(self._source)

    def read(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoded:
        """See `Target.read`: which rows have the input."""
        return Dense({"there": torch.from_numpy(self._have(table, rows))})

    def known(self, values: Encoded) -> Tensor:
        """See `Target.known`."""
        assert isinstance(values, Dense)
        return values.tensors["there"]

    def labels(self, values: Encoded, geometry: Geometry | None) -> tuple[Tensor, Tensor]:
        """See `Target.labels`: which rows have the input; `viewed` makes of it what a batch has."""
        there = self.known(values)
        return there, there

    def tally(self) -> Tally:
        """See `Target.tally`."""
        return _NoLabels(self.spec.input)

    def viewed(
        self, value: Any, rows: np.ndarray, there: Tensor, draws: Draws | None
    ) -> tuple[tuple[Any, ...], Tensor, Tensor]:
        """What the task reads of a batch, and is to answer.

        Args:
            value: What the input gives of B rows; it can be partial.
            rows: int64 `[B]`: the rows' positions in their table.
            there: bool `[B]`: the rows that are wanted and have the input.
            draws: Random numbers; None: the same ones always, for rows that are not for training.

        Returns:
            The versions, of B rows, of which they may lack those that are not `there` (none, where no row is); target
            and mask, as in `Batch`.
        """
        if isinstance(value, PartialInput):
            there = there & torch.zeros_like(there).index_fill(0, value.rows, True)
        positions = there.nonzero().squeeze(1)
        if not len(positions):
            return (), torch.zeros(len(rows)), torch.zeros(len(rows), dtype=torch.bool)
        every = len(positions) == len(rows)
        chosen = whole_rows(value, None if every else positions)
        view = self.view(chosen, rows[positions.numpy()], _FIXED if draws is None else draws)
        if every:
            return view.versions, view.target, view.mask
        versions = tuple(PartialInput(version, positions, len(rows)) for version in view.versions)
        spread = [
            each.new_zeros(len(rows), *each.shape[1:]).index_copy(0, positions, each)
            for each in (view.target, view.mask)
        ]
        return versions, spread[0], spread[1]

    @abstractmethod
    def view(self, value: Any, rows: np.ndarray, draws: Draws) -> View:
        """What the task reads of some rows, and is to answer.

        Args:
            value: What an encoder reads of n rows, at least one; it stays as it is.
            rows: int64 `[n]`: the rows' positions in their table.
            draws: Random numbers.
        """

    def stream(self, number: int) -> int:
        """The name of a stream of random numbers, the task's own."""
        return self._stream + 2**32 * (1 + number)

    def state_dict(self) -> dict[str, Any]:
        """See `Target.state_dict`."""
        return {**super().state_dict(), "input_columns": list(self._columns)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Target.load_state_dict`."""
        super().load_state_dict(state)
        self._columns = tuple(state["input_columns"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_there": None}

    def _check(self, source: Input) -> None:
        """Make sure that versions can be made of an input.

        Raises:
            UserError: They cannot.
        """

    def _learn(self, table: Table, rows: np.ndarray) -> TargetSummary:
        # The input is fitted later: see `follow`.
        self._training = table, rows
        return TargetSummary(labelled=len(rows))

    def _learned(self, source: Input, table: Table, rows: np.ndarray) -> TargetSummary:
        """What the training rows that have the input say."""
        return TargetSummary(labelled=len(rows))

    def _sample(self, source: Input, table: Table, rows: np.ndarray) -> Iterator[Any]:
        """What an encoder reads of some training rows, in parts: of a sample where there are many."""
        most = max(1, min(_SAMPLE_ROWS, _SAMPLE_BYTES // source.row_bytes))
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        for positions, part in table.batches(source.columns, rows, size=rows_at_once(source)):
            encoding = source.encode(part, positions, table)
            readable = np.flatnonzero([int(row) not in encoding.failures for row in positions])
            if len(readable):
                yield source.collate(encoding.values.select(readable), positions[readable], None)

    def _have(self, table: Table, rows: np.ndarray) -> np.ndarray:
        """Which rows have the input and are of the task's sources, bool `[B]`."""
        there = np.ones(len(rows), dtype=bool)
        if self._columns:
            if self._there is None or self._there[0] is not table:
                columns = [table.arrow(column) for column in self._columns if table.has(column)]
                self._there = table, rows_with(columns, len(table))
            there &= self._there[1][rows]
        if self.spec.sources is not None and isinstance(table, CombinedTable):
            wanted = [table.names.index(name) for name in self.spec.sources]
            there &= table.sources_of(rows)[:, wanted].any(axis=1)
        return there

    def _unsuited(self, wanted: str | None, suited: Mapping[str, Input], inputs: Mapping[str, Input]) -> UserError:
        kinds = " or ".join(self.modalities)
        there = ", ".join(f"'{name}' ({each.modality})" for name, each in inputs.items())
        if wanted is None and suited:
            return UserError(
                f"Task '{self.task}' learns from one input ({kinds}), but there are several: {listing(suited)}. Name "
                "one: input: NAME."
            )
        what = f"the input '{wanted}', which is none" if wanted is not None else "such an input, but there is none"
        return UserError(
            f"Task '{self.task}' is for {kinds} and learns from {what}.{closest(wanted or '', suited)} The inputs: "
            f"{there or 'none'}."
        )


class _NoLabels(Tally):
    """What there is to say of a task that needs none."""

    def __init__(self, source: str | None) -> None:
        self._source = source

    def add(self, values: Encoded) -> None:
        """See `Tally.add`."""

    def __str__(self) -> str:
        return f"needs none: from '{self._source}'"
