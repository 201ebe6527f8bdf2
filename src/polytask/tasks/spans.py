"""Spans of words in tags: what BIO, IOB1, BIOES and BILOU tags say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_TAG = re.compile(r"([BIOESLUM])(?:-(.+))?")
_MARKS = "OBIES"
_SAME = {"L": "E", "U": "S", "M": "I"}
_O, _B, _I, _E, _S = range(5)


class Tagset(NamedTuple):
    """What the classes of a tagging mean.

    Attributes:
        scheme: Whether they are marks of spans, such as `B-PER`. If not, every word is a span by itself.
        marks: int64 `[C]`: position in `OBIES` of each class's mark.
        kinds: int64 `[C]`: the kind of span of each class, -1 for `O`.
    """

    scheme: bool
    marks: np.ndarray
    kinds: np.ndarray


def tagset(classes: Sequence[str], other: str | None = None) -> Tagset:
    """What classes mean, from their names.

    Args:
        classes: Their names.
        other: A class that says nothing of spans, whatever its name.
    """
    found = {name: _TAG.fullmatch(name) for name in classes if name != other}
    if not all(found.values()) or not any(match and match[2] for match in found.values()):
        return Tagset(False, np.full(len(classes), _S), np.arange(len(classes)))
    names: dict[str, int] = {}
    marks, kinds = [], []
    for name in classes:
        match = found.get(name)
        mark = "O" if match is None else _SAME.get(match[1], match[1])
        marks.append(_MARKS.index(mark))
        # `B` without a kind is a span of the kind that has no name.
        kind = match[2] or "" if match is not None else ""
        kinds.append(-1 if mark == "O" else names.setdefault(kind, len(names)))
    return Tagset(True, np.array(marks), np.array(kinds))


def spans(tags: np.ndarray, rows: np.ndarray, known: Tagset) -> np.ndarray:
    """The spans in the tags of words, by the rules of the shared task CoNLL-2000's `conlleval`.

    A span that is not begun by `B` begins where the kind changes or where `O`, an end or a single one was before; so
    what a network says is read even where it is no valid sequence.

    Args:
        tags: int64 `[N]`: classes of words, row by row; negative for words that are left out, which end a span.
        rows: int64 `[N]`: the row of each.
        known: What the classes mean.

    Returns:
        int64 `[S, 3]`: the first and the last word (positions among the N), and the kind of each span, in order.
    """
    if not len(tags):
        return np.empty((0, 3), dtype=np.int64)
    left_out = tags < 0
    marks = np.where(left_out, _O, known.marks[np.maximum(tags, 0)])
    kinds = np.where(left_out, -1, known.kinds[np.maximum(tags, 0)])
    # Before the first word of a row and behind its last one there is no span.
    new_row = np.concatenate([[True], rows[1:] != rows[:-1]])
    before = np.where(new_row, _O, np.concatenate([[_O], marks[:-1]]))
    kind_before = np.where(new_row, -1, np.concatenate([[-1], kinds[:-1]]))
    starts = (marks != _O) & (np.isin(marks, (_B, _S)) | np.isin(before, (_O, _E, _S)) | (kinds != kind_before))
    # A word ends its span where the next one is in none, begins one, or is in another row.
    following = np.concatenate([starts[1:] | (marks[1:] == _O) | new_row[1:], [True]])
    first, last = np.flatnonzero(starts), np.flatnonzero((marks != _O) & following)
    return np.stack([first, last, kinds[first]], axis=1)
