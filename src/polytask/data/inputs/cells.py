"""Files in cells of a table: paths, bytes, or records of both; what reads them, and what is said of unreadable ones."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch.utils.data import get_worker_info

from polytask.data.column_types import is_image, is_text
from polytask.data.table import Table
from polytask.errors import UserError

Cell = str | bytes | dict[str, Any] | None

_STRETCH = 32


class UnreadableError(ValueError):
    """A cell that holds nothing readable; the message says what it is and why."""


def holds_files(storage: pa.DataType) -> bool:
    """Whether cells of this Arrow type may be files: paths, bytes, or records of both as Hugging Face writes them."""
    return is_text(storage) or is_image(storage)


def file_of(cell: Cell, folder: Path | None, what: str) -> tuple[Path | io.BytesIO, str]:
    """The file in a cell, and what messages call it.

    Args:
        cell: A path, a file's bytes, or a record with `bytes` and `path`.
        folder: Where relative paths start; None: the working directory.
        what: What the file should hold: `"image"`.

    Raises:
        UnreadableError: The cell is empty.
    """
    if isinstance(cell, dict):
        path, content = cell.get("path"), cell.get("bytes")
        if content is None:
            return file_of(path, folder, what)
        return io.BytesIO(content), f"'{path}'" if path else "in the cell"
    if isinstance(cell, bytes) and cell:
        return io.BytesIO(cell), "in the cell"
    if isinstance(cell, str) and cell:
        return (folder or Path()) / cell, f"'{cell}'"
    raise UnreadableError(f"there is no {what}")


def map_cells(read: Callable[[int, Cell], str | None], cells: Sequence[Cell]) -> list[str | None]:
    """What `read` makes of each cell and its position.

    In threads, since decoders work outside the interpreter; but worker processes are parallel already.
    """

    def stretch(start: int) -> list[str | None]:
        return [read(position, cells[position]) for position in range(start, min(start + _STRETCH, len(cells)))]

    starts = range(0, len(cells), _STRETCH)
    if len(starts) < 2 or get_worker_info() is not None:
        return list(chain.from_iterable(map(stretch, starts)))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(chain.from_iterable(pool.map(stretch, starts)))


def problem_with(error: UnreadableError, cell: Cell, row: int, column: str, table: Table) -> str:
    """What is wrong with a cell, and for an empty one why it is empty where that is known.

    Args:
        error: What came of reading it.
        cell: The cell.
        row: Its row's position in the table.
        column: Its column.
        table: The table.
    """
    return f"{error}{table.absence(row, column).reason}" if cell is None else str(error)


def unreadable(problem: str, row: int, column: str, table: Table) -> UserError:
    """The error for a row whose file cannot be read; see `problem_with`."""
    reason, ways = table.absence(row, column)
    mend, remove = ways if reason else ("Mend the file", "remove the row")
    return UserError(
        f"{table.locate(row)}: {problem}. {mend}, {remove}, or set on_error: skip to leave out every row of this kind."
    )
