"""Rows of formats that have types of their own, given the types that the user set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from polytask.data.column_types import CATEGORY_MARK, ColumnType, check_names, check_types
from polytask.data.conversion import BadValue, bad_type, convert
from polytask.data.readers.cache import Rows


def typed_rows(
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    types: Mapping[str, ColumnType],
    source: str,
    locate: Callable[[int], str],
) -> Rows:
    """The rows with plain Arrow types, and with those that the user set.

    Args:
        schema: The schema of the batches.
        batches: The rows.
        types: The types that the user set.
        source: What messages call the file.
        locate: Where a row (by position) stands, for messages.

    Raises:
        UserError: A column does not exist, is there twice, or has a value that does not fit its type.
    """
    check_names(schema.names, source)
    check_types(types, schema.names, source)
    # Every array fits OTHER, so it only becomes plain.
    wanted = {name: types.get(name, ColumnType.OTHER) for name in schema.names}
    result = pa.schema([_stored_as(field, wanted[field.name]) for field in schema])

    def rows() -> Iterator[pa.RecordBatch]:
        first = 0
        for batch in batches:
            columns = []
            for name, column in zip(schema.names, batch.columns, strict=True):
                try:
                    columns.append(convert(column, wanted[name]))
                except BadValue as error:
                    raise bad_type(locate(first + error.index), name, wanted[name], error) from error
            yield pa.RecordBatch.from_arrays(columns, schema=result)
            first += batch.num_rows

    return result, rows()


def _stored_as(field: pa.Field, wanted: ColumnType) -> pa.Field:
    # Codes become names, but that the column had codes still says that it holds categories.
    metadata = CATEGORY_MARK if pa.types.is_dictionary(field.type) else None
    return pa.field(field.name, convert(pa.array([], field.type), wanted).type, metadata=metadata)
