"""Arrow IPC files, and the folders that Hugging Face `datasets` save, memory-mapped where they lie."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from polytask.data.column_types import check_types
from polytask.data.conversion import changes_storage
from polytask.data.readers.cache import Rows, cached_table
from polytask.data.readers.hugging_face import ClassNames, class_names, described_features, with_class_names
from polytask.data.readers.options import ReadOptions
from polytask.data.readers.typed import typed_rows
from polytask.data.table import Table
from polytask.errors import UserError, listing


def read(path: Path, options: ReadOptions, cache: Path | None) -> Table:
    """The table of an Arrow file (file or stream format), or of a folder that `datasets` saved.

    Nothing is copied, unless the file is compressed, or a column gets a type whose values are others.

    Raises:
        UserError: It is neither, holds several splits, or does not fit the options.
    """
    files, features = _dataset(path) if path.is_dir() else ([path], {})
    schema, mapped = _inspect(files[0])
    names = class_names(features or described_features(schema), schema.names)
    schema = with_class_names(schema.empty_table(), names).schema
    check_types(options.columns, schema.names, str(path))
    changed = any(changes_storage(schema.field(name).type, kind) for name, kind in options.columns.items())
    if changed or not mapped:
        return cached_table(path, options, cache, lambda: _convert(files, schema, names, options, path), files=files)
    reopen = partial(_map, files, names)
    folder = path if path.is_dir() else path.parent
    return Table(reopen(), source=str(path), folder=folder, types=options.columns, reopen=reopen)


def _dataset(folder: Path) -> tuple[list[Path], Mapping[str, Any]]:
    """The files of a saved data set, in order, and its features."""
    if (folder / "dataset_dict.json").exists():
        splits = _json(folder / "dataset_dict.json").get("splits") or ["train"]
        raise UserError(f"{folder} holds several splits: {listing(splits)}. Name one of them: {folder / splits[0]}.")
    if not (folder / "state.json").exists():
        raise UserError(f"{folder} is not a data set that Hugging Face `datasets` saved: it has no state.json.")
    files = [folder / entry["filename"] for entry in _json(folder / "state.json").get("_data_files") or []]
    if not files:
        raise UserError(f"{folder} has no rows: its state.json names no files.")
    info = folder / "dataset_info.json"
    return files, (_json(info).get("features") or {}) if info.exists() else {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def _open(file: Path) -> tuple[Any, pa.Buffer]:
    """A reader of the memory-mapped file, and the memory."""
    try:
        whole = pa.memory_map(str(file)).read_buffer()
        is_file = whole.slice(0, min(6, whole.size)).to_pybytes() == b"ARROW1"
        return (pa.ipc.open_file(whole) if is_file else pa.ipc.open_stream(whole)), whole
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing.") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is not an Arrow file, or is damaged: {error}") from error


def _map(files: Sequence[Path], names: ClassNames) -> pa.Table:
    """All rows, memory-mapped."""
    try:
        return with_class_names(pa.concat_tables([_open(file)[0].read_all() for file in files]), names)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{files[0]} cannot be read: {error}") from error


def _inspect(file: Path) -> tuple[pa.Schema, bool]:
    """The schema, and whether the rows are used where they lie: those of a compressed file are not."""
    reader, whole = _open(file)
    batch = next(_rows_of(reader, file), None)
    if batch is None:
        return reader.schema, True
    memory = range(whole.address, whole.address + whole.size)
    buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None and buffer.size]
    return reader.schema, all(buffer.address in memory for buffer in buffers)


def _convert(files: Sequence[Path], schema: pa.Schema, names: ClassNames, options: ReadOptions, path: Path) -> Rows:
    rows = (
        batch
        for file in files
        for part in _rows_of(_open(file)[0], file)
        for batch in with_class_names(pa.Table.from_batches([part]), names).to_batches()
    )
    return typed_rows(schema, rows, options.columns, str(path), lambda row: f"{path}, row {row + 1}")


def _rows_of(reader: Any, file: Path) -> Iterator[pa.RecordBatch]:
    try:
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)
        else:
            yield from reader
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
