"""Parquet files, converted in a stream to memory-mapped Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from polytask.data.readers.cache import BATCH_BYTES, BATCH_ROWS, Rows, cached_table
from polytask.data.readers.hugging_face import class_names, described_features, with_class_names
from polytask.data.readers.options import ReadOptions
from polytask.data.readers.typed import typed_rows
from polytask.data.table import Table
from polytask.errors import UserError


def read(path: Path, options: ReadOptions, cache: Path | None) -> Table:
    """The table of a Parquet file.

    Raises:
        UserError: It is not one, is damaged, or does not fit the options.
    """
    return cached_table(path, options, cache, lambda: _convert(path, options))


def _convert(path: Path, options: ReadOptions) -> Rows:
    try:
        # Without a buffer size the reader would take whole compressed column chunks into memory.
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a Parquet file, or is damaged: {error}") from error
    names = class_names(described_features(file.schema_arrow), file.schema_arrow.names)
    schema = with_class_names(file.schema_arrow.empty_table(), names).schema
    rows = (batch for part in _parts(file, path) for batch in with_class_names(part, names).to_batches())
    return typed_rows(schema, rows, options.columns, str(path), lambda row: f"{path}, row {row + 1}")


def _parts(file: pq.ParquetFile, path: Path) -> Iterator[pa.Table]:
    """The rows in parts that are small also where a row holds an image."""
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    with file:
        try:
            for batch in file.iter_batches(max(1, min(BATCH_ROWS, BATCH_BYTES // max(widest, 1))), use_threads=False):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is damaged: {error}") from error
