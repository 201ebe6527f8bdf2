"""Which rows train, which choose, which judge: made once, and never overlapping."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polytask.data.column_types import ColumnType
from polytask.data.partition import by_group, by_stratum, largest_first, random_rows
from polytask.data.scaffolds import scaffold_groups
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing

By = Literal["random", "stratified", "group", "scaffold", "scaffold_balanced", "column"]

PARTS = ("train", "valid", "test")

_SPELLINGS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}

_QUANTILES = 10
"""A number with more than twice as many values is stratified by this many ranges of equal count."""

_log = logging.getLogger("polytask")


@dataclass(frozen=True)
class Split:
    """The rows of each part of a table.

    Attributes:
        rows: Positions by part (`train`, `valid`, `test`; a part may be absent), int64, sorted, in one part only.
    """

    rows: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        for part in self.rows:
            if part not in PARTS:
                raise UserError(f"There is no part '{part}' of a split.{closest(part, PARTS)} Parts: {listing(PARTS)}.")
        ordered = {part: np.sort(np.asarray(self.rows[part], dtype=np.int64)) for part in PARTS if part in self.rows}
        every = np.sort(np.concatenate([*ordered.values(), np.empty(0, np.int64)]))
        if len(every) and every[0] < 0:
            raise UserError(f"A split has the row position {every[0]}: positions start at 0.")
        if (twice := every[1:][np.diff(every) == 0]).size:
            raise UserError(f"Row {twice[0] + 1} is in a split more than once.")
        object.__setattr__(self, "rows", ordered)

    def __getitem__(self, part: str) -> np.ndarray:
        """The rows of a part.

        Raises:
            UserError: The split does not have it.
        """
        if part not in self.rows:
            raise UserError(f"The split has no part '{part}', only {listing(self.rows)}.")
        return self.rows[part]

    def __contains__(self, part: object) -> bool:
        return part in self.rows

    def check(self, table: Table) -> None:
        """Make sure that the split can be one of this table.

        Raises:
            UserError: It has rows that the table does not, or covers fewer rows without a gap: the data have changed.
        """
        every = np.concatenate([*self.rows.values(), np.empty(0, np.int64)])
        covered = int(every.max()) + 1 if len(every) else 0
        if covered > len(table) or (covered == len(every) and covered < len(table)):
            raise UserError(
                f"The split was made for {covered} rows, but {table.source} has {len(table)}: the data have changed. "
                "Use the data that the split was made for, or make a new split."
            )

    def save(self, path: str | Path) -> None:
        """Write the split as a Parquet file with columns `row` (position, from 0) and `part`, in one move."""
        path = Path(path)
        rows = np.concatenate([*self.rows.values(), np.empty(0, np.int64)])
        parts = np.repeat(list(self.rows), [len(part) for part in self.rows.values()])
        order = np.argsort(rows, kind="stable")
        data = pa.table({"row": rows[order], "part": pa.array(parts[order], pa.string())})
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
        try:
            pq.write_table(data, name)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path, table: Table | None = None) -> Split:
        """Read a split that `save` wrote.

        Args:
            path: The Parquet file.
            table: The table that it must fit.

        Raises:
            UserError: It is not there, not a split, or does not fit the table.
        """
        try:
            data = pq.read_table(path, columns=["row", "part"])
            rows, parts = data["row"].to_numpy(), np.array(data["part"].to_pylist())
        except FileNotFoundError as error:
            raise UserError(f"The split {path} does not exist.") from error
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is not a split (a Parquet file with columns 'row' and 'part'): {error}") from error
        split = cls({part: rows[parts == part] for part in dict.fromkeys(parts.tolist())})
        if table is not None:
            split.check(table)
        return split


def make_split(
    table: Table,
    *,
    by: By = "random",
    column: str | Sequence[str] | None = None,
    valid: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> Split:
    """Divide the rows of a table; the same table and seed give the same split.

    Args:
        table: The table.
        by: `random`; `stratified`: each value of the column (each combination of the columns) is in every part in the
            same proportion, within two rows, a value with one row being in `train`; `group`: all rows with the same
            value in one part, the sizes as near to the fractions as the groups allow; `scaffold` and
            `scaffold_balanced`: molecules of the same scaffold in one part, see
            `polytask.data.partition.largest_first`; `column`: the column says it, with `train`, `valid` (`validation`,
            `val`, `dev`) and `test`, in any case.
        column: The column, or for `stratified` several. A number with many values is stratified by ranges of equal
            count. Rows without a value are a stratum, and a group, of their own.
        valid: The fraction of the rows in `valid`; 0: no such part. Not used by `column`.
        test: The fraction of the rows in `test`; 0: no such part. Not used by `column`.
        seed: Fixes the choice; not used by `scaffold`, which has none, and `column`.

    Raises:
        UserError: A column does not fit, the fractions are not possible, or a part would be empty.
    """
    if by not in get_args(By):
        raise UserError(f"There is no split by '{by}'.{closest(by, get_args(By))} Allowed: {listing(get_args(By))}.")
    columns = _columns(by, column)
    if by == "column":
        return _from_column(table, columns[0])
    _check_fractions(valid, test)
    generator = np.random.default_rng(seed)
    if by == "random":
        parts = random_rows(len(table), valid, test, generator)
    elif by == "stratified":
        parts = by_stratum(_joint([_strata(table, name) for name in columns]), valid, test, generator)
    elif by in {"scaffold", "scaffold_balanced"}:
        groups = scaffold_groups(table, columns[0])
        _require_groups(groups, f"{table.source}, column '{columns[0]}'", "scaffolds", valid, test)
        parts = largest_first(groups, valid, test, generator if by == "scaffold_balanced" else None)
    else:
        parts = _grouped(table, columns[0], valid, test, generator)
    wanted = {"train": 1 - valid - test, "valid": valid, "test": test}
    rows = {part: np.flatnonzero(parts == number) for number, part in enumerate(PARTS) if wanted[part] > 0}
    for part, positions in rows.items():
        if not len(positions):
            rare = " Values that occur once stay in 'train'." if by == "stratified" else ""
            raise UserError(
                f"The part '{part}' of {table.source} would be empty: {wanted[part]:g} of {len(table)} rows.{rare} "
                "Set its fraction to 0, or to more."
            )
    return Split(rows)


def _columns(by: By, column: str | Sequence[str] | None) -> list[str]:
    columns = [column] if isinstance(column, str) else list(column or [])
    if by == "random" and columns:
        raise UserError(f"A random split uses no column, but has {listing(columns)}. Use 'stratified' or 'group'.")
    if by != "random" and not columns:
        raise UserError(f"A split by '{by}' needs a column.")
    if by not in {"random", "stratified"} and len(columns) > 1:
        raise UserError(f"A split by '{by}' takes one column, not {len(columns)}: {listing(columns)}.")
    return columns


def _check_fractions(valid: float, test: float) -> None:
    for part, fraction in {"valid": valid, "test": test}.items():
        if not 0 <= fraction < 1:
            raise UserError(f"The fraction of '{part}' is {fraction:g}: it must be at least 0 and below 1.")
    if valid + test >= 1:
        raise UserError(f"valid ({valid:g}) and test ({test:g}) add up to {valid + test:g}: nothing is left to train.")


def _grouped(table: Table, column: str, valid: float, test: float, generator: np.random.Generator) -> np.ndarray:
    groups, missing = _codes(table, column)
    if missing:
        _log.warning("%s: %d rows have no '%s'; they are kept together in one part", table.source, missing, column)
    _require_groups(groups, f"{table.source}, column '{column}'", "groups", valid, test)
    return by_group(groups, valid, test, generator)


def _require_groups(groups: np.ndarray, where: str, name: str, valid: float, test: float) -> None:
    count, parts = int(groups.max()) + 1, 1 + (valid > 0) + (test > 0)
    if count < parts:
        raise UserError(f"{where}: {count} {name} cannot fill {parts} parts.")


def _strata(table: Table, column: str) -> np.ndarray:
    """The stratum of each row."""
    codes, _ = _codes(table, column)
    if table.types.get(column) is ColumnType.NUMBER and codes.max() >= 2 * _QUANTILES:
        values = table.numbers(column)
        edges = np.nanquantile(values, np.linspace(0, 1, _QUANTILES + 1)[1:-1])
        _log.info("%s: stratified by %d ranges of '%s'", table.source, _QUANTILES, column)
        return np.where(np.isnan(values), _QUANTILES, np.searchsorted(edges, values, side="right"))
    return codes


def _joint(codes: list[np.ndarray]) -> np.ndarray:
    joint = codes[0]
    for more in codes[1:]:
        joint = np.unique(joint * (int(more.max()) + 1) + more, return_inverse=True)[1]
    return joint


def _values(table: Table, column: str) -> pa.ChunkedArray:
    values = table.column(column)
    if table.types[column] in {ColumnType.LIST, ColumnType.IMAGE, ColumnType.AUDIO, ColumnType.OTHER}:
        raise UserError(
            f"{table.source}, column '{column}': rows cannot be split by values of the type "
            f"'{table.types[column].value}'. Use a column of categories or numbers."
        )
    return values


def _codes(table: Table, column: str) -> tuple[np.ndarray, int]:
    """A number for each row's value, in the order of appearance, one of them for missing; how many are missing."""
    values = _values(table, column)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    encoded = pc.dictionary_encode(values, null_encoding="encode").combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), values.null_count


def _from_column(table: Table, column: str) -> Split:
    values = pc.cast(_values(table, column), pa.string()).combine_chunks().dictionary_encode()
    if values.null_count:
        row = int(pc.index(pc.is_null(values), True).as_py())
        reason, ways = table.absence(row, column)
        raise UserError(
            f"{table.locate(row)}: the column '{column}' does not say which part the row is in{reason}. {ways[0]}, or "
            f"{ways[1]}."
        )
    names = values.dictionary.to_pylist()
    codes = values.indices.to_numpy()
    for code, name in enumerate(names):
        if name.strip().lower() not in _SPELLINGS:
            row = int((codes == code).argmax())
            raise UserError(
                f"{table.locate(row)}, column '{column}': '{name}' is not a part of a split. "
                f"Allowed: {listing(_SPELLINGS)}. The column has: {listing(names)}."
            )
    parts = np.array([PARTS.index(_SPELLINGS[name.strip().lower()]) for name in names])[codes]
    if not (parts == 0).any():
        raise UserError(f"{table.source}, column '{column}': no row is in 'train'. The column has: {listing(names)}.")
    return Split(
        {part: np.flatnonzero(parts == number) for number, part in enumerate(PARTS) if (parts == number).any()}
    )
