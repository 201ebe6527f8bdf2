"""What an input is: columns of a table that become one encoder's raw input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from polytask.data.encoded import Encoded, Encoding
from polytask.data.geometry import Geometry
from polytask.data.inputs.draws import Draws
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError, closest, listing
from polytask.shapes import InputShape

_PART_BYTES = 16 * 2**20


class Input(ABC):
    """One modality, read from one or several columns.

    An input is described by its parameters, learns from the training part what it needs (`resolve`, then `fit`), and
    then encodes any table that has its columns. Encoding has two halves: `encode` is fixed and may be kept in memory,
    `collate` makes the batch from what was kept.
    """

    modality: ClassVar[Literal["tabular", "image", "text", "graph", "audio", "sequence"]]
    columns: tuple[str, ...] = ()

    @property
    @abstractmethod
    def named(self) -> tuple[str, ...]:
        """The columns that the parameters name."""

    @property
    @abstractmethod
    def shape(self) -> InputShape:
        """What an encoder has to know; after `fit`."""

    def resolve(self, table: Table, reserved: Collection[str]) -> None:
        """Decide which columns are read.

        Args:
            table: The table with the training part.
            reserved: Columns that this input must not read: the targets, and what other inputs name.

        Raises:
            UserError: A column does not exist, or is reserved.
        """
        for column in self.named:
            require_column(table, column)
            if column in reserved:
                raise UserError(
                    f"{table.source}: the column '{column}' is read by an input but also is a target, so the network "
                    "would see the answer. Take it out of the input's columns."
                )
        self.columns = self.named

    @abstractmethod
    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """Learn from the training rows, in bounded memory.

        Args:
            table: The table with the training part.
            rows: int64: the training rows' positions in it.
            targets: The fitted targets by task, for inputs that learn from what is to be predicted.

        Raises:
            UserError: A row cannot be read, or there is nothing to learn from.
        """

    @abstractmethod
    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """Encode rows.

        Args:
            part: The rows' columns.
            rows: int64 `[B]`: their positions in `table`.
            table: Where they come from, for messages and for files beside it.

        Raises:
            UserError: A row cannot be read; the message says which.
        """

    @abstractmethod
    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> Any:
        """What the encoder reads.

        Args:
            values: The encoded rows, as `encode` made them.
            rows: int64 `[B]`: their positions in the table.
            draws: Random numbers for augmentation; None: no augmentation.
        """

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """About how many bytes an encoded row takes at most; after `fit`."""

    def geometry(self, rows: np.ndarray, draws: Draws | None) -> Geometry | None:
        """How the positions of rows move in `collate`, for targets that lie on the input; None: not at all.

        Args:
            rows: int64 `[B]`: their positions in the table.
            draws: As in `collate`.
        """
        return None

    @property
    def moves_untold(self) -> str | None:
        """The parameter by which `collate` moves positions in ways that `geometry` does not tell; None: none does."""
        return None

    @property
    def augments(self) -> bool:
        """Whether `collate` changes rows with `draws`, which costs enough to be worth worker processes."""
        return False

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that was learned, ready for JSON."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what another input of the same parameters learned."""


def rows_at_once(source: Input | Target) -> int:
    """How many rows are encoded at a time, such that they take little memory."""
    return max(1, min(16_384, _PART_BYTES // source.row_bytes))


def require_column(table: Table, column: str, purpose: str = "") -> None:
    """Refuse a column that the table does not have.

    Args:
        table: The table.
        column: The column's name.
        purpose: What reads it, for the message: `" (read by the input 'text')"`.

    Raises:
        UserError: There is no such column.
    """
    if not table.has(column):
        raise UserError(
            f"{table.source} has no column '{column}'{purpose}.{closest(column, table.columns)} "
            f"Its columns: {listing(table.columns, limit=30)}."
        )
