"""JSON Lines: one object a line, read in blocks, twice: once to find the columns, once to convert."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as arrow_json

from polytask.data.column_types import ColumnType, is_text
from polytask.data.readers.cache import Rows, cached_table
from polytask.data.readers.options import ReadOptions
from polytask.data.readers.typed import typed_rows
from polytask.data.table import Table
from polytask.errors import UserError

_BLOCK_BYTES = 16 << 20

_NO_OBJECT = re.compile(r"\n[ \t\r]*[^\s{]")

_AS_WRITTEN = (ColumnType.CATEGORY, ColumnType.TEXT, ColumnType.IMAGE, ColumnType.AUDIO, ColumnType.LIST)
"""Types that take a string as the file has it, also where it looks like a date."""


def read(path: Path, options: ReadOptions, cache: Path | None) -> Table:
    """The table of a JSON Lines file, which may be compressed (`.gz`, `.bz2`, `.zst`).

    Raises:
        UserError: A line is not a JSON object, a column mixes kinds of values, or the options do not fit.
    """
    return cached_table(path, options, cache, lambda: _convert(path, options), line_of=partial(_line_of, path))


def _convert(path: Path, options: ReadOptions) -> Rows:
    schema: pa.Schema | None = None
    for block in _blocks(path):
        _check(path, block)
        found = _parse(path, block, None).schema
        schema = found if schema is None else _unified(path, schema, found)
    if schema is None:
        raise UserError(f"{path} is empty.")
    as_written = [name for name, kind in options.columns.items() if kind in _AS_WRITTEN]
    schema = pa.schema(
        [_text_field(f) if f.name in as_written and pa.types.is_timestamp(f.type) else f for f in schema]
    )
    rows = (batch for block in _blocks(path) for batch in _parse(path, block, schema).to_batches())
    return typed_rows(schema, rows, options.columns, str(path), partial(_locate, path))


def _blocks(path: Path) -> Iterator[bytes]:
    """Whole lines, some megabytes of them at a time, without the blocks that are blank."""
    try:
        with pa.input_stream(str(path)) as stream:
            rest = b""
            while data := stream.read(_BLOCK_BYTES):
                lines, end, rest_of_data = data.rpartition(b"\n")
                if end:
                    yield from _not_blank(rest + lines)
                    rest = rest_of_data
                else:
                    rest += data
            yield from _not_blank(rest)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}). Is it damaged, or cut short?") from error


def _not_blank(block: bytes) -> Iterator[bytes]:
    if block.strip():
        yield block


def _check(path: Path, block: bytes) -> None:
    """Refuse what Arrow would take silently, or crash on: text that is not UTF-8, lines that are no objects."""
    try:
        # The line break makes the first line like the others.
        well = _NO_OBJECT.search("\n" + block.decode("utf-8-sig")) is None
    except UnicodeDecodeError:
        well = False
    if not well:
        raise _explained(path) or UserError(f"{path} is not JSON Lines: one JSON object a line.")


def _parse(path: Path, block: bytes, schema: pa.Schema | None) -> pa.Table:
    try:
        return arrow_json.read_json(
            io.BytesIO(block),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=arrow_json.ParseOptions(explicit_schema=schema),
        )
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise _explained(path) or UserError(f"{path} cannot be read: {error}") from error


def _unified(path: Path, first: pa.Schema, second: pa.Schema) -> pa.Schema:
    """The columns of two blocks. Where only one block's strings all look like dates, they are strings."""
    fields: dict[str, pa.Field] = {}
    for field in [*first, *second]:
        other = fields.get(field.name, field)
        if pa.types.is_timestamp(field.type) and is_text(other.type):
            fields[field.name] = other
        elif pa.types.is_timestamp(other.type) and is_text(field.type):
            fields[field.name] = field
        else:
            try:
                merged = pa.unify_schemas([pa.schema([other]), pa.schema([field])], promote_options="permissive")
            except pa.ArrowException as error:
                raise _explained(path) or UserError(f"{path}, column '{field.name}': {error}") from error
            fields[field.name] = merged.field(0)
    return pa.schema(list(fields.values()))


def _text_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, pa.string())


def _explained(path: Path) -> UserError | None:
    """The first line that cannot be read, found the slow way; None where every line is well by itself."""
    kinds: dict[str, tuple[str, int]] = {}
    for row, (line, text) in enumerate(_lines(path)):
        where = f"{path}, row {row + 1} (line {line})"
        try:
            record = json.loads(text)
        except UnicodeDecodeError:
            return UserError(f"{where}: this is not UTF-8. Convert the file to UTF-8.")
        except ValueError as error:
            return UserError(f"{where}: this is not JSON: {error}. Each line must be one JSON object.")
        if not isinstance(record, dict):
            return UserError(f"{where}: a JSON {_kind(record)}, but each line must be one JSON object, {{...}}.")
        for name, value in record.items():
            if value is not None:
                kind, before = kinds.setdefault(name, (_kind(value), row))
                if kind != _kind(value):
                    return UserError(
                        f"{where}, column '{name}': a {_kind(value)}, but row {before + 1} has a {kind}. "
                        "Write all values of a column as one kind."
                    )
    return None


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "object"}
    return kinds.get(type(value), "null")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    with pa.input_stream(str(path)) as stream:
        yield from ((number, line) for number, line in enumerate(io.BufferedReader(stream), 1) if line.strip())


def _line_of(path: Path, row: int) -> int | None:
    try:
        return next((line for position, (line, _) in enumerate(_lines(path)) if position == row), None)
    except OSError:
        # The line only helps to find the row: without it the message still names the row.
        return None


def _locate(path: Path, row: int) -> str:
    line = _line_of(path, row)
    return f"{path}, row {row + 1}" + ("" if line is None else f" (line {line})")
