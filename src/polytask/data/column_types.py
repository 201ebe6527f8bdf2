"""What the columns of a table mean, found from their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from polytask.errors import UserError, closest, listing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf")

SAMPLE_ROWS = 10_000
"""Rows that are looked at to tell text from categories."""


CATEGORY_MARK = {b"polytask.type": b"category"}
"""Metadata of an Arrow field whose values are names of categories."""


class ColumnType(StrEnum):
    """What a column's values are.

    Attributes:
        NUMBER: Integers, decimals. Integers stay numbers even where there are few of them.
        BOOLEAN: True or false.
        CATEGORY: One of a set of names.
        TEXT: Free text, or any string that hardly repeats (a SMILES string, an identifier).
        IMAGE: An image's path, or its bytes (also `struct<bytes, path>`).
        AUDIO: A recording's path, or its bytes (also `struct<bytes, path>`).
        LIST: Several values a row: an Arrow list, or text with a separator.
        DATE: A day or a moment.
        OTHER: Nested records, durations: kept, but neither an input nor a target.
    """

    NUMBER = "number"
    BOOLEAN = "boolean"
    CATEGORY = "category"
    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    LIST = "list"
    DATE = "date"
    OTHER = "other"


def check_names(columns: Sequence[str], source: str) -> None:
    """Make sure that there are columns, and that their names differ.

    Raises:
        UserError: There are none, or two have the same name.
    """
    if not columns:
        raise UserError(f"{source} has no columns.")
    repeated = sorted(name for name, times in Counter(columns).items() if times > 1)
    if repeated:
        raise UserError(f"{source} has more than one column called {listing(repeated)}. Rename all but one of them.")


class AbsentColumns(UserError):
    """Columns whose types the user set are not in the table.

    Attributes:
        names: The columns.
    """

    def __init__(self, names: Sequence[str], columns: Sequence[str], source: str) -> None:
        super().__init__(
            f"{source} has no column '{names[0]}', whose type is set.{closest(names[0], columns)} "
            f"Its columns: {listing(columns)}."
        )
        self.names = tuple(names)


def check_types(types: Mapping[str, ColumnType], columns: Sequence[str], source: str) -> None:
    """Make sure that every column whose type the user set exists.

    Raises:
        AbsentColumns: Some do not.
    """
    known = set(columns)
    if absent := [name for name in types if name not in known]:
        raise AbsentColumns(absent, columns, source)


def is_text(storage: pa.DataType) -> bool:
    """Whether the Arrow type is a string of any width."""
    return bool(pa.types.is_string(storage) or pa.types.is_large_string(storage))


def is_list(storage: pa.DataType) -> bool:
    """Whether the Arrow type holds several values a row."""
    kinds = pa.types
    return bool(kinds.is_list(storage) or kinds.is_large_list(storage) or kinds.is_fixed_size_list(storage))


def is_number(storage: pa.DataType) -> bool:
    """Whether the Arrow type is an integer, a float or a decimal."""
    return bool(pa.types.is_integer(storage) or pa.types.is_floating(storage) or pa.types.is_decimal(storage))


def is_date(storage: pa.DataType) -> bool:
    """Whether the Arrow type is a day or a moment."""
    return bool(pa.types.is_date(storage) or pa.types.is_timestamp(storage))


def is_image(storage: pa.DataType) -> bool:
    """Whether the Arrow type is bytes, or a record that has `bytes`."""
    if pa.types.is_struct(storage):
        return bool(storage.get_field_index("bytes") >= 0)
    return bool(
        pa.types.is_binary(storage) or pa.types.is_large_binary(storage) or pa.types.is_fixed_size_binary(storage)
    )


def plain_type(storage: pa.DataType) -> pa.DataType:
    """The Arrow type without codes, extensions and views: the one that a table hands out.

    Readers of a table so meet a category as its name, never as a number in a dictionary.
    """
    if isinstance(storage, pa.BaseExtensionType):
        return plain_type(storage.storage_type)
    if pa.types.is_dictionary(storage):
        return plain_type(storage.value_type)
    if pa.types.is_string_view(storage):
        return pa.string()
    if pa.types.is_binary_view(storage):
        return pa.binary()
    if pa.types.is_list(storage) or pa.types.is_large_list(storage):
        inner = plain_type(storage.value_type)
        if inner != storage.value_type:
            return pa.large_list(inner) if pa.types.is_large_list(storage) else pa.list_(inner)
    return storage


def infer_type(sample: pa.ChunkedArray, field: pa.Field) -> ColumnType:
    """What a column holds.

    Args:
        sample: Some of its values, of a plain type.
        field: The column as it is stored: dictionary codes, or a mark, say that it holds categories.
    """
    storage = sample.type
    marked = (field.metadata or {}).items() >= CATEGORY_MARK.items()
    if marked or pa.types.is_dictionary(field.type) or pa.types.is_null(storage):
        return ColumnType.CATEGORY
    if is_text(storage):
        return _infer_string(sample.drop_null())
    kinds = {
        ColumnType.BOOLEAN: pa.types.is_boolean,
        ColumnType.NUMBER: is_number,
        ColumnType.DATE: is_date,
        ColumnType.LIST: is_list,
        ColumnType.AUDIO: lambda kind: is_image(kind) and _begins_like_a_recording(sample),
        ColumnType.IMAGE: is_image,
    }
    return next((kind for kind, fits in kinds.items() if fits(storage)), ColumnType.OTHER)


def _infer_string(values: pa.ChunkedArray) -> ColumnType:
    """An image's or a recording's path, a category or text.

    Text is long (four words or 50 characters on average) and does not repeat much, or it hardly repeats at all in a
    table that is large enough to tell.
    """
    count = len(values)
    if count == 0:
        return ColumnType.CATEGORY
    lower = pc.utf8_lower(values)
    for kind, suffixes in ((ColumnType.IMAGE, IMAGE_SUFFIXES), (ColumnType.AUDIO, AUDIO_SUFFIXES)):
        if pc.all(pc.match_substring_regex(lower, rf"({'|'.join(suffixes)})$".replace(".", r"\."))).as_py():
            return kind
    distinct = pc.count_distinct(values).as_py() / count
    words = pc.mean(pc.count_substring_regex(values, r"\S+")).as_py()
    long = words >= 4 or pc.mean(pc.utf8_length(values)).as_py() >= 50
    if (long and distinct > 0.2) or (count > 50 and distinct > 0.5):
        return ColumnType.TEXT
    return ColumnType.CATEGORY


def starts_like_a_recording(content: bytes) -> bool:
    """Whether a file begins as sound files do: WAV, FLAC, OGG, AIFF, MP3."""
    if content[:4] in (b"RIFF", b"RF64"):
        return content[8:12] == b"WAVE"
    if content[:4] == b"FORM":
        return content[8:12] in (b"AIFF", b"AIFC")
    # A frame of MP3 begins with eleven set bits, a version and layer III.
    frame = len(content) > 1 and content[0] == 0xFF and content[1] & 0xE6 == 0xE2
    return content[:4] in (b"fLaC", b"OggS") or content[:3] == b"ID3" or frame


def _begins_like_a_recording(values: pa.ChunkedArray) -> bool:
    """Whether the first file in a column of files is a recording."""
    if pa.types.is_struct(values.type):
        values = pc.struct_field(values, "bytes")
    first = next((value for value in values.drop_null().slice(0, 1).to_pylist() if value), b"")
    return isinstance(first, bytes) and starts_like_a_recording(first)
