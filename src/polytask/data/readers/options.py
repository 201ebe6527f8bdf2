"""How a file is to be read."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from polytask.data.column_types import ColumnType
from polytask.errors import UserError, closest, listing

Format = Literal["auto", "csv", "tsv", "parquet", "jsonl", "arrow", "image_folder", "voc", "coco", "conllu", "conll"]

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")


@dataclass(frozen=True)
class ReadOptions:
    """How a table is to be read.

    Attributes:
        format: `auto`: from the file's name, or from what a folder holds.
        delimiter: What separates the values of a line (CSV, TSV); None: a comma, in a TSV file a tab,
            unless the header line shows another one.
        quoting: Whether values may stand in double quotes (CSV, TSV). False: quotes are plain characters.
        encoding: The encoding of the text (CSV, TSV).
        names: The names of the columns, for a file without a header line (CSV, TSV; None: the first line has them) and
            for plain columns of words (CoNLL; None: `words`, `column2`..., `tags`).
        columns: The types of columns, for those that are not to be inferred.
        missing: Spellings of a missing value (CSV, TSV); spaces around values do not count.
    """

    format: Format = "auto"
    delimiter: str | None = None
    quoting: bool = True
    encoding: str = "utf-8"
    names: Sequence[str] | None = None
    columns: Mapping[str, ColumnType] = field(default_factory=dict)
    missing: Sequence[str] = MISSING

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise UserError(
                f"There is no format '{self.format}'.{closest(self.format, get_args(Format))} "
                f"Allowed: {listing(get_args(Format))}."
            )
        if self.delimiter is not None and (len(self.delimiter) != 1 or not self.delimiter.isascii()):
            raise UserError(f"delimiter is {self.delimiter!r}: it must be one character, for example ';' or '\\t'.")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise UserError(
                f"There is no encoding '{self.encoding}'. Common ones: 'utf-8', 'latin-1', 'cp1252', 'utf-16'."
            ) from error
        # Configuration files hold the types as words, Python users as members.
        object.__setattr__(self, "columns", {name: _type(name, kind) for name, kind in self.columns.items()})


def _type(column: str, kind: str) -> ColumnType:
    try:
        return ColumnType(kind)
    except ValueError as error:
        raise UserError(
            f"Column '{column}': there is no type '{kind}'.{closest(str(kind), ColumnType)} "
            f"Allowed: {listing(ColumnType)}."
        ) from error
