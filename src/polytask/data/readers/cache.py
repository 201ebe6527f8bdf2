"""Arrow files made from the user's files, kept in a cache and memory-mapped from there."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from polytask.data.readers.options import ReadOptions
from polytask.data.table import LineOf, Table
from polytask.errors import UserError

BATCH_ROWS = 65_536
BATCH_BYTES = 64 << 20
"""A record batch ends at whichever comes first, so that images and long texts do not fill the memory."""

_LAYOUT = "1"
"""Part of every key: to be raised when the same file and options must give another Arrow file than before."""

_log = logging.getLogger("polytask")

Rows = tuple[pa.Schema, Iterator[pa.RecordBatch]]


def cached_table(
    path: Path,
    options: ReadOptions,
    cache: Path | None,
    convert: Callable[[], Rows],
    *,
    line_of: LineOf | None = None,
    files: Sequence[Path] = (),
) -> Table:
    """The table of a file that is converted to Arrow, at its first reading.

    Args:
        path: The user's file, or folder.
        options: How it is read.
        cache: The folder of the Arrow files; None: `$POLYTASK_CACHE`, else `polytask` in `$XDG_CACHE_HOME` or
            `~/.cache`.
        convert: Gives the schema and the rows of the file.
        line_of: The line where a row stands.
        files: The files that hold the rows where `path` is a folder.

    Raises:
        UserError: The cache cannot be written (a full disk, no permission), or the file changes meanwhile.
    """
    files = files or [path]
    target = _target(path, files, options, cache)
    if not target.exists():
        schema, rows = convert()
        _write(target, schema, rows, unchanged=lambda: _target(path, files, options, cache) == target)
        _log.info("%s was converted to %s", path, target)
    reopen = partial(map_file, target)
    return Table(
        reopen(),
        source=str(path),
        folder=path if path.is_dir() else path.parent,
        types=options.columns,
        reopen=reopen,
        line_of=line_of,
    )


def map_file(path: Path) -> pa.Table:
    """The rows of an Arrow file, memory-mapped.

    Raises:
        UserError: It is gone.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except FileNotFoundError as error:
        raise UserError(f"{path} is gone: the cache was emptied while its data were in use. Start again.") from error


def _target(path: Path, files: Sequence[Path], options: ReadOptions, cache: Path | None) -> Path:
    """The Arrow file of one state of the data, read in one way."""
    parts: list[object] = [_LAYOUT]
    for file in files:
        state = file.stat()
        parts += [str(file.resolve()), state.st_size, state.st_mtime_ns]
    parts += [options.format, options.delimiter, options.quoting, options.encoding]
    parts += [options.names and list(options.names), list(options.missing)]
    parts += [sorted((name, kind.value) for name, kind in options.columns.items())]
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    # The name is for people who look into the cache; the key alone tells files apart.
    return _folder(cache) / f"{re.sub(r'[^A-Za-z0-9._-]', '_', path.name)[:60]}-{key}.arrow"


def _folder(cache: Path | None) -> Path:
    if cache is not None:
        return cache
    if own := os.environ.get("POLYTASK_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polytask"


def _write(target: Path, schema: pa.Schema, rows: Iterator[pa.RecordBatch], unchanged: Callable[[], bool]) -> None:
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.stem[:40]}-", suffix=".tmp", dir=target.parent)
        os.close(descriptor)
    temporary = Path(name)
    try:
        writer = _Writer(temporary, schema, target)
        for batch in rows:
            writer.add(batch)
        writer.close()
        if not unchanged():
            raise UserError("The data changed while they were being read. Start again when nothing writes to them.")
        with _disk_errors(target):
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


class _Writer:
    """Record batches of one size, whatever the sizes of those that come in."""

    def __init__(self, path: Path, schema: pa.Schema, target: Path) -> None:
        self._schema = schema
        self._target = target
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0
        with _disk_errors(target):
            self._file = pa.OSFile(str(path), "wb")
            self._writer = pa.ipc.new_file(self._file, schema)

    def add(self, batch: pa.RecordBatch) -> None:
        while batch.num_rows:
            part = batch.slice(0, BATCH_ROWS - self._rows)
            batch = batch.slice(part.num_rows)
            self._waiting.append(part)
            self._rows += part.num_rows
            self._bytes += part.nbytes
            if self._rows == BATCH_ROWS or self._bytes >= BATCH_BYTES:
                self._flush()

    def close(self) -> None:
        self._flush()
        with _disk_errors(self._target):
            self._writer.close()
            self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
            with _disk_errors(self._target):
                self._writer.write_table(table)
        self._waiting, self._rows, self._bytes = [], 0, 0


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Says what the matter is where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot write to the cache {target.parent}: {error.strerror or error}. Make room there, or name another "
            "folder in the environment variable POLYTASK_CACHE. What is in the cache may be deleted at any time."
        ) from error
