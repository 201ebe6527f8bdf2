"""From rows of a table to batches: everything that the training part decides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from polytask.data.combined import located
from polytask.data.encoded_rows import EncodedRows
from polytask.data.inputs import Input
from polytask.data.inputs.input import require_column
from polytask.data.inputs.optional import OptionalInput
from polytask.data.loader import InOrder, Loader, Order, Shuffled
from polytask.data.request import Share
from polytask.data.streams import Stream, shuffled
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.data.targets import make_target, target_from_state
from polytask.errors import UserError, listing
from polytask.labels import TargetSpec, TargetSummary
from polytask.shapes import InputShape

log = logging.getLogger("polytask")

CACHE_BYTES = 512 * 2**20
"""How much memory the encoded rows of one loader may take."""


class Preparation:
    """Fitted inputs and targets.

    Args:
        inputs: By name. Where there are several, rows may lack some of them, as long as they have one: those without a
            value in any of its columns.
        targets: By task.
        optional: The inputs that the network learns to do without, as some training rows lack them. A table need not
            have their columns.
    """

    def __init__(
        self, inputs: Mapping[str, Input], targets: Mapping[str, Target], optional: Collection[str] = ()
    ) -> None:
        self.inputs = dict(inputs)
        self.targets = dict(targets)
        self.optional = frozenset(optional)

    @classmethod
    def fit(
        cls,
        table: Table,
        rows: np.ndarray,
        inputs: Mapping[str, Input],
        targets: Mapping[str, TargetSpec],
        reserved: Collection[str] = (),
    ) -> Preparation:
        """Learn from the training part, in bounded memory.

        Args:
            table: The table.
            rows: int64: the training rows' positions in it, no others.
            inputs: New inputs by name; they are fitted.
            targets: How each task's target is to be read, by task.
            reserved: More columns that `columns: "*"` must not read: the one that made the split, say.

        Raises:
            UserError: The data do not have what is asked for.
        """
        if len(rows) == 0:
            raise UserError(f"{table.source}: the training part has no rows.")
        targets = located(targets, table)
        readers = {task: make_target(task, spec) for task, spec in targets.items()}
        for reader in readers.values():
            reader.check(table)
        answers = {column for spec in targets.values() for column in spec.columns}
        for name, source in inputs.items():
            others = {column for other in inputs for column in inputs[other].named if other != name}
            source.resolve(table, {*answers, *others, *reserved} - set(source.named) | answers)
        for reader in readers.values():
            reader.fit(table, rows)
        for name, source in inputs.items():
            if len(inputs) == 1:
                source.fit(table, rows, readers)
            else:
                _fit_where_it_is(name, source, table, rows, readers)
        if inputs:
            follow_inputs(readers.values(), inputs)
        return cls(inputs, readers, _lacked(inputs, table, rows) if len(inputs) > 1 else ())

    @property
    def shapes(self) -> dict[str, InputShape]:
        """What an encoder has to know, by input."""
        return {name: source.shape for name, source in self.inputs.items()}

    @property
    def summaries(self) -> dict[str, TargetSummary]:
        """What the training part says about each task's target."""
        return {task: target.summary for task, target in self.targets.items()}

    def loader(
        self,
        table: Table,
        rows: np.ndarray | None = None,
        *,
        batch_size: int,
        training: bool = False,
        seed: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
        targets: bool | Collection[str] = True,
        order: Callable[[EncodedRows], Order] | None = None,
        cache_bytes: int = CACHE_BYTES,
        share: Share = Share(),  # noqa: B008 (a tuple)
    ) -> Loader:
        """Batches of some rows. Rows without labels are among them, with false masks.

        Args:
            table: The table; any that has the columns.
            rows: int64: the rows' positions in it; None: all.
            batch_size: Rows in a batch; the last one may have fewer.
            training: Whether each epoch has another order, and inputs are augmented.
            seed: What order and augmentation follow from.
            workers: Processes that prepare batches. None is started where batches are ready in memory.
            pin_memory: Put batches into page-locked memory, from where they reach a GPU sooner.
            targets: Whether to read the targets, or those of which tasks; the table need not have the others' columns.
            order: Makes what says which rows make up which batch; None: all rows, in another order each epoch if they
                are for training.
            cache_bytes: Inputs are encoded once and kept in memory up to so many bytes, the others for each batch.
            share: The part of each batch that is this process's work.

        Raises:
            UserError: A column is not there, or a row cannot be read.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, but must be at least 1.")
        rows = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
        if len(rows) == 0:
            raise UserError(f"{table.source}: there is no row to make a batch of.")
        inputs, lacking = self._readers_of(table, rows)
        rows = rows[~np.isin(rows, lacking)] if len(lacking) else rows
        wanted = (self.targets if targets else ()) if isinstance(targets, bool) else targets
        readers = {task: self.targets[task] for task in wanted}
        for reader in readers.values():
            reader.check(table)
        encoded = EncodedRows(table, rows, inputs, readers, seed=seed if training else None, cache_bytes=cache_bytes)
        nothing = f"it has no value for any of the inputs {listing(self.inputs)}"
        encoded.failures |= {int(row): nothing for row in lacking}
        if order is None:
            order = partial(_all_rows, batch_size=batch_size, seed=seed if training else None)
        return Loader(encoded, table, order(encoded), workers=workers, pin_memory=pin_memory, share=share)

    def state_dict(self) -> dict[str, Any]:
        """All that was learned, ready for JSON."""
        return {
            "inputs": {name: source.state_dict() for name, source in self.inputs.items()},
            "targets": {task: target.state_dict() for task, target in self.targets.items()},
            **({"optional": sorted(self.optional)} if self.optional else {}),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], inputs: Mapping[str, Input]) -> Preparation:
        """The preparation whose `state_dict` this is.

        Args:
            state: The state.
            inputs: New inputs of the same names and parameters; they take over what was learned.
        """
        for name, source in inputs.items():
            source.load_state_dict(state["inputs"][name])
        targets = {task: target_from_state(task, part) for task, part in state["targets"].items()}
        for target in targets.values():
            target.meet(inputs)
        return cls(inputs, targets, state.get("optional", ()))

    def rows_with_inputs(self, table: Table, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Which of some rows have each input, bool `[N]`, by input; all have the only one.

        Args:
            table: The table.
            rows: int64 `[N]`: the rows' positions in it.
        """
        if len(self.inputs) == 1:
            return dict.fromkeys(self.inputs, np.ones(len(rows), dtype=bool))
        return {name: OptionalInput(source, table).there(table)[rows] for name, source in self.inputs.items()}

    def _readers_of(self, table: Table, rows: np.ndarray) -> tuple[dict[str, Input], np.ndarray]:
        """What reads the inputs of some rows, and those of the rows that have none of them.

        Raises:
            UserError: A column is not there.
        """
        several = len(self.inputs) > 1
        for name, source in self.inputs.items():
            if several and name in self.optional and not any(map(table.has, source.columns)):
                continue
            for column in source.columns:
                require_column(table, column, f", which the input '{name}' reads")
        if not several:
            return self.inputs, rows[:0]
        readers = {name: OptionalInput(source, table) for name, source in self.inputs.items()}
        there = self.rows_with_inputs(table, rows)
        nothing = ~np.any(list(there.values()), axis=0)
        if nothing.all():
            raise UserError(
                f"{table.source}: no row has a value for any of the inputs {listing(self.inputs)}, so there is nothing "
                "to make a batch of."
            )
        for name, has in there.items():
            count = int((~has & ~nothing).sum())
            if count and name not in self.optional:
                log.warning(
                    "%s: %d of %d rows lack the input '%s', which every training row has: the network has not learned "
                    "to do without it. For that, hide inputs in training: model.fusion with drop above 0.",
                    table.source,
                    count,
                    len(rows),
                    name,
                )
        return dict(readers), rows[nothing]


def follow_inputs(targets: Iterable[Target], inputs: Mapping[str, Input]) -> None:
    """Let targets learn from the fitted inputs that they lie on, and make sure that they can move as those do.

    Raises:
        UserError: An input is not there, is of another modality, or moves without telling where.
    """
    for target in targets:
        target.follow(inputs)
        if target.follows is not None:
            _check_moves(target, inputs[target.follows])


def _check_moves(reader: Target, source: Input) -> None:
    if source.moves_untold is not None:
        raise UserError(
            f"The task '{reader.task}' learns what lies on the images of '{reader.follows}', which "
            f"{source.moves_untold} would move without telling where. Take {source.moves_untold} out of "
            f"inputs.{reader.follows}; flip, crop, scale, rotate and color can stay."
        )


def _fit_where_it_is(name: str, source: Input, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
    """Fit one of several inputs on the training rows that have it.

    Raises:
        UserError: No row has it, or it cannot be learned from those that have it.
    """
    reader = OptionalInput(source, table)
    if not reader.there(table)[rows].any():
        raise UserError(
            f"{table.source}: none of the {len(rows):,} training rows has a value for the input '{name}', which reads "
            f"{listing(source.columns)}. Leave the input out, or give it other columns."
        )
    reader.fit(table, rows, targets)


def _lacked(inputs: Mapping[str, Input], table: Table, rows: np.ndarray) -> list[str]:
    """The inputs that some rows lack, of those rows that have any."""
    there = {name: OptionalInput(source, table).there(table)[rows] for name, source in inputs.items()}
    some = np.any(list(there.values()), axis=0)
    return [name for name, has in there.items() if not has[some].all()]


def _all_rows(encoded: EncodedRows, *, batch_size: int, seed: int | None) -> Order:
    if seed is None:
        return InOrder(len(encoded), batch_size)
    sampler = shuffled(encoded.rows, seed=seed, name="rows")
    return Shuffled(Stream(np.arange(len(encoded)), sampler, batch_size=batch_size))
