"""Sentences with a line for each word: CoNLL-U, and plain columns as in the shared tasks of CoNLL."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from polytask.data.readers.cache import Rows, cached_table
from polytask.data.readers.options import ReadOptions
from polytask.data.readers.typed import typed_rows
from polytask.data.table import Table
from polytask.errors import UserError, listing

_FIELDS = ("id", "words", "lemmas", "upos", "xpos", "feats", "heads", "deprel")
"""The first columns of CoNLL-U; the number of a word is its place in the lists."""
_ALL_FIELDS = 10
_COMMENT = re.compile(r"#\s*([^=]+?)\s*=\s*(.*)")
_SENTENCES = 4096


class _Sentence(NamedTuple):
    line: int
    comments: dict[str, str]
    words: list[list[str]]


def read_conllu(path: Path, options: ReadOptions, cache: Path | None) -> Table:
    """The table of a CoNLL-U file, a row for each sentence.

    Lists: `words`, `lemmas`, `upos`, `xpos`, `feats`, `heads` (numbers) and `deprel`; `_` is a null, but in words and
    lemmas. Words that several words are written as, and those that are not written, are left out. Comments of the form
    `# key = value` are columns: `sent_id`, `text`...

    Raises:
        UserError: A line is not as the format has it.
    """

    def convert() -> Rows:
        keys = list(dict.fromkeys(key for sentence in _sentences(path, True) for key in sentence.comments))
        names = [key for key in keys if key not in _FIELDS]
        lists = [(name, pa.list_(pa.int64() if name == "heads" else pa.string())) for name in _FIELDS[1:]]
        schema = pa.schema([*lists, *((name, pa.string()) for name in names)])
        return _typed(path, options, schema, (_universal(path, some, schema) for some in _parts(path, True)))

    return cached_table(path, options, cache, convert)


def read_conll(path: Path, options: ReadOptions, cache: Path | None) -> Table:
    """The table of a file with a line for each word, its columns separated by white space, and blank lines between.

    The columns are lists called `words`, `column2`, `column3`..., the last `tags`; the option `names` calls them
    otherwise.
    Lines that begin with `-DOCSTART-` are left out.

    Raises:
        UserError: Lines have different numbers of columns, or not as many as there are names.
    """

    def convert() -> Rows:
        first = next(_sentences(path, False), None)
        if first is None:
            raise UserError(f"{path} has no sentences.")
        count = len(first.words[0])
        names = list(options.names or ["words", *(f"column{i}" for i in range(2, count)), "tags"][:count])
        if len(names) != count:
            raise UserError(
                f"{path}, line {first.line}: there are {count} columns, but {len(names)} names: {listing(names)}."
            )
        schema = pa.schema([(name, pa.list_(pa.string())) for name in names])
        return _typed(path, options, schema, (_plain(path, some, schema) for some in _parts(path, False)))

    return cached_table(path, options, cache, convert)


def _typed(path: Path, options: ReadOptions, schema: pa.Schema, rows: Iterator[pa.RecordBatch]) -> Rows:
    return typed_rows(schema, rows, options.columns, str(path), lambda row: f"{path}, sentence {row + 1}")


def _parts(path: Path, comments: bool) -> Iterator[list[_Sentence]]:
    part: list[_Sentence] = []
    for sentence in chain(_sentences(path, comments), [None]):
        if sentence is None or len(part) == _SENTENCES:
            yield part
            part = []
        if sentence is not None:
            part.append(sentence)


def _sentences(path: Path, universal: bool) -> Iterator[_Sentence]:
    """The sentences of a file, which may be compressed; lines without a word, of CoNLL-U's own kind, are left out."""
    comments: dict[str, str] = {}
    words: list[list[str]] = []
    start = 0
    try:
        with pa.input_stream(str(path)) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
            for number, ended in enumerate(chain(text, [""]), start=1):
                line = ended.rstrip("\r\n")
                if not line.strip():
                    if words:
                        yield _Sentence(start, comments, words)
                    comments, words = {}, []
                elif universal and line.startswith("#"):
                    if match := _COMMENT.fullmatch(line):
                        comments[match[1]] = match[2]
                elif not line.startswith("-DOCSTART-"):
                    fields = line.split("\t") if universal else line.split()
                    if universal and len(fields) != _ALL_FIELDS:
                        raise UserError(
                            f"{path}, line {number}: a line of CoNLL-U has {_ALL_FIELDS} columns separated by tabs, "
                            f"but this one has {len(fields)}. Files with other columns have the format 'conll'."
                        )
                    if universal and not fields[0].isdecimal():
                        continue
                    start = start if words else number
                    words.append(fields)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}). Is it damaged, or not UTF-8?") from error


def _universal(path: Path, sentences: Sequence[_Sentence], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        if not pa.types.is_list(kind):
            arrays.append(pa.array([sentence.comments.get(name) for sentence in sentences], kind))
            continue
        place = _FIELDS.index(name)
        try:
            lists = [[_value(word[place], name) for word in sentence.words] for sentence in sentences]
        except ValueError as error:
            raise UserError(f"{path}: the heads of words are numbers of words, or '_': {error}") from error
        arrays.append(pa.array(lists, kind))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _value(field: str, name: str) -> str | int | None:
    if field == "_" and name not in ("words", "lemmas"):
        return None
    return int(field) if name == "heads" else field


def _plain(path: Path, sentences: Sequence[_Sentence], schema: pa.Schema) -> pa.RecordBatch:
    for sentence in sentences:
        for offset, word in enumerate(sentence.words):
            if len(word) != len(schema):
                raise UserError(
                    f"{path}, line {sentence.line + offset}: there are {len(word)} columns, but the first sentence has "
                    f"{len(schema)}: {listing(schema.names)}."
                )
    columns = [
        pa.array([[word[place] for word in sentence.words] for sentence in sentences], schema.field(place).type)
        for place in range(len(schema))
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
