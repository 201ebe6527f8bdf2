"""CSV and TSV files, streamed twice: once to find the types, once to convert."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from polytask.data.column_types import ColumnType, check_names, check_types
from polytask.data.conversion import BadValue, bad_type, convert
from polytask.data.readers.cache import Rows, cached_table
from polytask.data.readers.options import ReadOptions
from polytask.data.table import Table
from polytask.errors import UserError

_LADDER = (pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us"), pa.timestamp("us", "UTC"))
"""What the strings of a column are tried as, in this order; integers before booleans, since 0 and 1 are numbers."""

_BLOCK_BYTES = 8 << 20
"""Read at once; also the longest row that can be read."""

_log = logging.getLogger("polytask")


def read(path: Path, options: ReadOptions, delimiter: str, cache: Path | None) -> Table:
    """The table of a CSV or TSV file, which may be compressed (`.gz`, `.bz2`, `.zst`).

    Args:
        path: The file.
        options: How to read it.
        delimiter: What separates values where neither the options nor the header line say.
        cache: The folder of the Arrow files.

    Raises:
        UserError: The file is empty, ragged, not text of the encoding, or does not fit the options.
    """
    source = _Source(path, options, options.delimiter or delimiter)
    if options.delimiter is None and not options.names:
        source.find_delimiter()
    return cached_table(path, options, cache, source.convert, line_of=source.line_of)


def _line_of(path: Path, options: ReadOptions, delimiter: str, row: int) -> int | None:
    """The line on which a row starts: more than its number where values have line breaks, or lines are blank."""
    encoding = "utf-8-sig" if _is_utf8(options.encoding) else options.encoding
    wanted = row if options.names else row + 1
    try:
        with io.TextIOWrapper(pa.input_stream(str(path)), encoding=encoding, newline="") as text:
            reader = csv.reader(
                text, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if options.quoting else csv.QUOTE_NONE
            )
            before = 0
            for values in reader:
                if values:
                    if wanted == 0:
                        return before + 1
                    wanted -= 1
                before = reader.line_num
    except (OSError, ValueError, csv.Error):
        # The line only helps to find the row: without it the message still names the row.
        return None
    return None


class _Source:
    """A CSV file as strings, and what becomes of them."""

    def __init__(self, path: Path, options: ReadOptions, delimiter: str) -> None:
        self.path = path
        self.options = options
        self._separate_by(delimiter)
        self._missing = pa.array(sorted({value.strip() for value in options.missing}), pa.string())
        self._ragged: list[arrow_csv.InvalidRow] = []

    def convert(self) -> Rows:
        """The schema of the typed columns, and their rows."""
        header = self._header()
        names = [name.strip() or f"column_{position}" for position, name in enumerate(header, 1)]
        check_names(names, str(self.path))
        check_types(self.options.columns, names, str(self.path))
        if unnamed := [name for name, raw in zip(names, header, strict=True) if not raw.strip()]:
            _log.info("%s: columns without a name are called %s", self.path, ", ".join(unnamed))
        found = self._storage(header, names)
        storage = [self._stored_as(name, kind) for name, kind in zip(names, found, strict=True)]
        schema = pa.schema(list(zip(names, storage, strict=True)))
        return schema, self._typed(header, schema)

    def _storage(self, header: list[str], names: list[str]) -> list[pa.DataType]:
        """The first pass: the narrowest Arrow type that all values of each column have."""
        found: list[pa.DataType | None] = [None] * len(names)
        warned = False
        for first, batch in self._strings(header):
            found = [_wider(kind, column) for kind, column in zip(found, batch.columns, strict=True)]
            for name, kind, column in zip(names, found, batch.columns, strict=True):
                warned = warned or (kind == pa.string() and self._swallows_rows(column, name, first, len(names)))
        return [kind or pa.string() for kind in found]

    def _typed(self, header: list[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The second pass: the values of each column as its type."""
        for first, batch in self._strings(header):
            columns = []
            for field, column in zip(schema, batch.columns, strict=True):
                wanted = self.options.columns.get(field.name)
                if wanted is None or field.type == pa.int64():
                    columns.append(pc.cast(column, field.type))
                    continue
                try:
                    columns.append(convert(column, wanted))
                except BadValue as error:
                    raise bad_type(self._locate(first + error.index), field.name, wanted, error) from error
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def _stored_as(self, name: str, found: pa.DataType) -> pa.DataType:
        wanted = self.options.columns.get(name)
        if wanted is None or (wanted is ColumnType.NUMBER and found in {pa.int64(), pa.float64()}):
            return found
        return convert(pa.array([], pa.string()), wanted).type

    def _strings(self, header: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """All values as strings without spaces around them, null where missing, with the position of the first row."""
        with self._errors():
            first = 0
            with self._open(header) as reader:
                for batch in reader:
                    columns = [self._cleaned(column) for column in batch.columns]
                    yield first, pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
                    first += batch.num_rows

    def _cleaned(self, column: pa.Array) -> pa.Array:
        trimmed = pc.utf8_trim_whitespace(column)
        missing = pc.is_in(trimmed, value_set=self._missing)
        return pc.if_else(missing, pa.scalar(None, pa.string()), trimmed) if missing.true_count else trimmed

    def find_delimiter(self) -> None:
        """Take another delimiter than expected where the header line shows one."""
        names = self._header()
        other = next((mark for mark in ";\t|," if mark in names[0]), None) if len(names) == 1 else None
        if other is not None:
            _log.info("%s: its values are separated by %r, as its header line shows.", self.path, other)
            self._separate_by(other)

    def _header(self) -> list[str]:
        if self.options.names:
            return list(self.options.names)
        # A reader that is left open still reads ahead when the process ends, and takes it down.
        with self._errors(), self._open() as reader:
            names: list[str] = reader.schema.names
        return names

    def _separate_by(self, delimiter: str) -> None:
        self.delimiter = delimiter
        self.line_of = partial(_line_of, self.path, self.options, delimiter)

    def _open(self, header: Sequence[str] = ()) -> arrow_csv.CSVStreamingReader:
        """A reader in which every column of `header` is a string."""
        utf8 = _is_utf8(self.options.encoding)
        self._ragged.clear()
        return arrow_csv.open_csv(
            pa.input_stream(str(self.path)),
            # Threads would lose the row numbers of errors and gain nothing: reading strings is not what takes time.
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=list(self.options.names) if self.options.names else None,
                encoding="utf8" if utf8 else self.options.encoding,
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=self.delimiter,
                quote_char='"' if self.options.quoting else False,
                newlines_in_values=self.options.quoting,
                invalid_row_handler=self._keep_ragged,
            ),
            convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), null_values=[]),
        )

    def _keep_ragged(self, row: Any) -> str:
        self._ragged.append(row)
        return "error"

    def _locate(self, row: int) -> str:
        line = self.line_of(row)
        return f"{self.path}, row {row + 1}" + ("" if line is None else f" (line {line})")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Says in the user's terms what Arrow could not read."""
        try:
            yield
        except (pa.ArrowInvalid, UnicodeError) as error:
            message = str(error)
            if self._ragged:
                raise self._ragged_error(self._ragged[0]) from error
            if "Empty CSV" in message:
                raise self._empty_error() from error
            if isinstance(error, UnicodeError) or "UTF8" in message:
                raise UserError(
                    f"{self.path} is not text in the encoding '{self.options.encoding}'. Set `encoding`, for example "
                    "to 'latin-1', 'cp1252' or 'utf-16'."
                ) from error
            if "straddling object" in message:
                raise UserError(
                    f"{self.path} has a row of more than {_BLOCK_BYTES >> 20} MB, so a quote is probably not closed. "
                    "If quotes are plain characters there, set `quoting` to false."
                ) from error
            raise UserError(f"{self.path} cannot be read: {message}") from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error}). Is it damaged, or cut short?") from error

    def _ragged_error(self, row: Any) -> UserError:
        position = row.number - (1 if self.options.names else 2)
        named = "`names` has" if self.options.names else "the header has"
        text = row.text if len(row.text) <= 80 else f"{row.text[:77]}..."
        advice = f"Put values that contain {self.delimiter!r} in double quotes, or set `delimiter`."
        if self.options.quoting and '"' in row.text:
            advice += " If double quotes are plain characters there, set `quoting` to false."
        return UserError(
            f"{self._locate(position)}: {row.actual_columns} values, but {named} {row.expected_columns}: "
            f"{text!r}. {advice}"
        )

    def _empty_error(self) -> UserError:
        with pa.input_stream(str(self.path)) as stream:
            blank = not stream.read(_BLOCK_BYTES).strip(codecs.BOM_UTF8 + b" \t\r\n")
        return UserError(f"{self.path} is empty." if blank else f"{self.path} has no rows, only a header.")

    def _swallows_rows(self, column: pa.Array, name: str, first: int, width: int) -> bool:
        """Warn of a value that holds whole lines of the file: the sign of quotes that do not mean quoting."""
        if not self.options.quoting or (width < 3 and self.delimiter != "\t"):
            return False
        mark = re.escape(self.delimiter)
        line = rf"\n([^{mark}\n]*{mark}){{{width - 1}}}[^{mark}\n]*(\n|$)"
        broken = pc.match_substring(column, "\n")
        if not pc.any(broken).as_py():
            return False
        index = pc.index(pc.match_substring_regex(column, line), True).as_py()
        if index < 0:
            return False
        _log.warning(
            "%s, column '%s': the value in quotes holds whole lines of %d values. "
            "If double quotes are plain characters in this file, set `quoting` to false.",
            self._locate(first + index),
            name,
            width,
        )
        return True


def _wider(current: pa.DataType | None, column: pa.Array) -> pa.DataType | None:
    """The narrowest type for what was seen before, of type `current`, and the strings of `column`."""
    if current == pa.string() or column.null_count == len(column):
        return current
    tried = _LADDER if current is None else _LADDER[:2] if current == pa.int64() else (current,)
    return next((kind for kind in tried if _parses(column, kind)), pa.string())


def _parses(column: pa.Array, kind: pa.DataType) -> bool:
    try:
        pc.cast(column, kind)
    except pa.ArrowInvalid:
        return False
    # Arrow reads 0x1F as an integer; to people it is a code.
    return kind != pa.int64() or not pc.any(pc.match_substring(column, "x", ignore_case=True)).as_py()


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in {"utf-8", "utf-8-sig"}
