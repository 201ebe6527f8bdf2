"""What the network could read: an image, a recording, a molecule, series, a text, or the table's columns together."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.config.proposed_series import propose_series, series_columns
from polytask.config.proposed_task import counts_rows, sample
from polytask.data.column_types import ColumnType
from polytask.data.inputs.audio_decoding import AudioDecoder
from polytask.data.inputs.cells import Cell, UnreadableError
from polytask.data.inputs.image_decoding import decode
from polytask.data.inputs.molecules import fraction_readable
from polytask.data.table import Table
from polytask.errors import UserError, listing

_IMAGES_LOOKED_AT = 32
_RECORDINGS_LOOKED_AT = 64
_MOLECULES_LOOKED_AT = 200
_GREATEST_SIDE = 224
_LONGEST_SECONDS = 10.0
_SECONDS_LOOKED_AT = 600.0
_PLAIN = (ColumnType.NUMBER, ColumnType.BOOLEAN, ColumnType.CATEGORY)


@dataclass(frozen=True)
class ProposedInput:
    """An input with its encoder.

    Attributes:
        name: The input's name.
        component: Its type and settings.
        encoder: The encoder's.
        comments: What was left out, and what else could be done.
        lr: A learning rate that suits the encoder.
        largest_batch: Rows that fit into a batch.
    """

    name: str
    component: dict[str, Any]
    encoder: dict[str, Any]
    comments: list[str] = field(default_factory=list)
    lr: float = 1e-3
    largest_batch: int = 1024


def propose_input(table: Table, taken: Collection[str]) -> ProposedInput:
    """The input that says most: an image, a recording, a molecule, series, a text, in this order, or all other columns.

    Args:
        table: The table.
        taken: Columns that are something else: targets, the column that splits.

    Raises:
        UserError: No column is left that could be read.
    """
    free = [column for column in table.columns if column not in taken]
    images = [column for column in free if table.types[column] is ColumnType.IMAGE]
    recordings = [column for column in free if table.types[column] is ColumnType.AUDIO]
    series = series_columns(table, free)
    texts = [column for column in _texts(table, free) if column not in series]
    plain = [column for column in free if table.types[column] in _PLAIN and _says_something(table, column)]
    molecules = [column for column in texts if _readable_molecules(table, column) > 0.9]
    incomplete = [column for column in texts if table.column(column).null_count]
    complete = [column for column in texts if column not in incomplete]
    if images:
        proposed = _image(table, images[0])
    elif recordings and (not (complete or plain or series) or _has_recordings(table, recordings[0])):
        proposed = _audio(table, recordings[0])
    elif molecules:
        proposed = _molecule(molecules[0])
    elif series:
        proposed = ProposedInput("series", *propose_series(table, series), largest_batch=256)
    elif complete and (_is_prose(table, complete[0]) or not plain):
        proposed = _text(table, complete[0])
    elif plain:
        proposed = _tabular(table, free, plain)
    elif incomplete:
        raise UserError(
            f"{table.source}: there is nothing to predict from in every row: '{incomplete[0]}' is empty in "
            f"{table.column(incomplete[0]).null_count} rows. Fill them, or take these rows out."
        )
    else:
        raise UserError(
            f"{table.source} has no column left to predict from. Besides {listing(taken)} it has: "
            f"{listing(f'{column} ({table.types[column].value})' for column in free) or 'none'}."
        )
    read = set(plain) if proposed.component["type"] == "tabular" else _columns_of(proposed)
    left_out = [column for column in [*images, *recordings, *series, *texts, *plain] if column not in read]
    if left_out:
        proposed.comments.append(
            f"The network reads this input alone; left out: {listing(left_out)}. They can be inputs beside it."
        )
    return proposed


def _columns_of(proposed: ProposedInput) -> set[str]:
    """The columns that an input names."""
    named = proposed.component.get("columns") or proposed.component["column"]
    return {named} if isinstance(named, str) else set(named)


def _tabular(table: Table, free: list[str], plain: list[str]) -> ProposedInput:
    component: dict[str, Any] = {"type": "tabular", "columns": "*"}
    unread = [column for column in free if table.types[column] in _PLAIN and column not in plain]
    comments = [f"All numbers, booleans and categories that are no targets: {listing(plain)}."]
    if unread:
        component["exclude"] = unread
        comments.append(f"Left out, as they number or name the rows or never change: {listing(unread)}.")
    return ProposedInput("row", component, {"type": "mlp", "width": 256, "depth": 3, "dropout": 0.1}, comments)


def _says_something(table: Table, column: str) -> bool:
    """Whether a column neither names the rows nor is constant."""
    values = sample(table, column)
    distinct = pc.count_distinct(values).as_py()
    if distinct < 2 or counts_rows(values):
        return False
    is_name = re.search(r"(^|[_\s.-])id$|[a-z]I[dD]$", column if column.upper() != column else column.lower())
    return not (is_name and distinct > 0.9 * len(values) and not pa.types.is_floating(values.type))


def _texts(table: Table, free: list[str]) -> list[str]:
    """The columns of text, the longest first."""
    found = [column for column in free if table.types[column] is ColumnType.TEXT]
    return sorted(found, key=lambda column: -_mean_words(table, column))


def _is_prose(table: Table, column: str) -> bool:
    return _mean_words(table, column) >= 3


def _mean_words(table: Table, column: str) -> float:
    texts = sample(table, column).slice(0, 2000).drop_null()
    return float(pc.mean(pc.count_substring_regex(texts, r"\S+")).as_py() or 0.0)


def _text(table: Table, column: str) -> ProposedInput:
    words = pc.count_substring_regex(sample(table, column), r"\w+|[^\w\s]")
    longest = int(pc.quantile(words, 0.99)[0].as_py())
    length = int(min(512, max(16, 2 ** math.ceil(math.log2(longest + 2)))))
    if _is_prose(table, column):
        component = {"type": "text", "column": column, "tokenizer": "words", "ngrams": 2, "length": length}
        comment = "A bag of words and word pairs is quick and hard to beat on small data."
        if importlib.util.find_spec("tokenizers") is not None:
            comment += " To try a transformer: take tokenizer and ngrams out here, and set the encoder to transformer."
        return ProposedInput("text", component, {"type": "bag", "dim": 100}, [comment], lr=5e-3, largest_batch=256)
    # Formulas, codes, names: what counts is inside the words.
    component = {"type": "text", "column": column, "lowercase": False, "length": 128}
    return ProposedInput("text", component, {"type": "transformer", "dim": 128, "depth": 2}, [], 1e-3, 256)


def _readable_molecules(table: Table, column: str) -> float:
    """The share of a text column's values that are SMILES; 0 where the libraries for molecules are not installed."""
    if any(importlib.util.find_spec(library) is None for library in ("rdkit", "torch_geometric")):
        return 0.0
    texts = sample(table, column).drop_null().slice(0, _MOLECULES_LOOKED_AT)
    # No word of a language is longer than a few letters and a molecule.
    if not len(texts) or pc.mean(pc.utf8_length(texts)).as_py() < 5 or _mean_words(table, column) > 1.1:
        return 0.0
    return fraction_readable(texts.to_pylist())


def _molecule(column: str) -> ProposedInput:
    component = {"type": "graph", "column": column, "on_error": "skip"}
    comments = ["SMILES, read as molecules. Rows that are none are skipped and counted; on_error: error refuses them."]
    encoder = {"type": "gin", "dim": 128, "depth": 4, "dropout": 0.2}
    return ProposedInput("molecule", component, encoder, comments, largest_batch=256)


def _image(table: Table, column: str) -> ProposedInput:
    rows = np.unique(np.linspace(0, len(table) - 1, _IMAGES_LOOKED_AT).astype(np.int64))
    images, failed, problem = [], 0, ""
    for cell in table.take(rows, [column]).column(0).to_pylist():
        try:
            images.append(decode(cell, table.folder, 3, None))
        except UnreadableError as error:
            failed, problem = failed + 1, str(error)
    if not images:
        raise UserError(f"{table.source}: none of the images in '{column}' that were looked at can be read: {problem}.")
    heights, widths = (sorted(image.shape[axis] for image in images) for axis in (1, 2))
    component: dict[str, Any] = {
        "type": "image",
        "column": column,
        "size": _size(heights, widths),
        "channels": 1 if all((image == image[:1]).all() for image in images) else 3,
    }
    comments = []
    if heights[0] != heights[-1] or widths[0] != widths[-1]:
        comments.append(
            f"Images of {heights[0]} x {widths[0]} to {heights[-1]} x {widths[-1]} pixels are stretched to one size."
        )
    if failed or table.column(column).null_count:
        component["on_error"] = "skip"
        comments.append("Some rows have no readable image; they are skipped, and counted.")
    side = min(component["size"])
    depth = int(min(6, max(2, round(math.log2(side / 4)))))
    encoder = {"type": "cnn", "width": 32 if depth <= 4 else 16, "depth": depth}
    if side >= 96 and component["channels"] == 3:
        comments.append("With few images, a pretrained encoder helps: {type: resnet, pretrained: true}.")
    return ProposedInput("image", component, encoder, comments, largest_batch=128)


def _has_recordings(table: Table, column: str) -> bool:
    """Whether any of the recordings that are looked at can be read; not where the library for them is not installed."""
    if importlib.util.find_spec("soundfile") is None:
        return False
    decoder = AudioDecoder(1, _SECONDS_LOOKED_AT, silence=False)
    for cell in _some(table, column, _RECORDINGS_LOOKED_AT):
        try:
            decoder.rate(cell, table.folder)
        except UnreadableError:
            continue
        return True
    return False


def _some(table: Table, column: str, count: int) -> list[Cell]:
    rows = np.unique(np.linspace(0, len(table) - 1, count).astype(np.int64))
    cells: list[Cell] = table.take(rows, [column]).column(0).to_pylist()
    return cells


def _audio(table: Table, column: str) -> ProposedInput:
    decoder = AudioDecoder(1, _SECONDS_LOOKED_AT, silence=False)
    rates, seconds, failed, problem = [], [], 0, ""
    for cell in _some(table, column, _RECORDINGS_LOOKED_AT):
        try:
            samples, rate = decoder.read(cell, table.folder, None)
        except UnreadableError as error:
            failed, problem = failed + 1, str(error)
        else:
            rates.append(rate)
            seconds.append(len(samples) / rate)
    if not rates:
        raise UserError(
            f"{table.source}: none of the recordings in '{column}' that were looked at can be read: {problem}."
        )
    component: dict[str, Any] = {"type": "audio", "column": column, "gain": 6}
    comments = [f"Recordings of {min(seconds):.1f} to {max(seconds):.1f} s at {min(rates):,} samples a second."]
    if min(rates) < max(rates):
        component["sample_rate"] = min(rates)
        comments = [
            f"Recordings of {min(seconds):.1f} to {max(seconds):.1f} s; those with more samples a second, up to "
            f"{max(rates):,}, are brought to {min(rates):,}."
        ]
    if max(seconds) > _LONGEST_SECONDS:
        component |= {"max_seconds": 4 * _LONGEST_SECONDS, "crop": _LONGEST_SECONDS}
        comments.append(
            f"Training looks at {_LONGEST_SECONDS:g} s of each at a time, else at {4 * _LONGEST_SECONDS:g} s at most."
        )
    if failed or table.column(column).null_count:
        component["on_error"] = "skip"
        comments.append("Some rows have no readable recording; they are skipped, and counted.")
    encoder = {"type": "audio_cnn", "width": 16, "depth": 4}
    return ProposedInput("audio", component, encoder, comments, lr=2e-3, largest_batch=64)


def _size(heights: list[int], widths: list[int]) -> list[int]:
    """The usual height and width, made smaller where they are large."""
    height, width = heights[len(heights) // 2], widths[len(widths) // 2]
    scale = min(1.0, _GREATEST_SIDE / max(height, width))
    return [max(8, round(height * scale)), max(8, round(width * scale))]
