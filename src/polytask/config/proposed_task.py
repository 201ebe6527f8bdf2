"""What a column suggests as a task: its type, loss and metric."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.config.proposed_mask import propose_masks
from polytask.data.class_names import class_names, count_names, in_order
from polytask.data.column_types import ColumnType, is_list
from polytask.data.table import Table
from polytask.errors import UserError

SAMPLE_ROWS = 100_000
"""Rows that are looked at, spread evenly; all of a smaller table."""

RARE = 10
"""With fewer rows than this, a class may be missing from the training part of a random split."""

_MOST_CODES = 20
_MOST_LABELS = 500
_IMBALANCE = 3
_GREATEST_WEIGHT = 100
_SEPARATORS = ("|", ";", ",")


@dataclass(frozen=True)
class ProposedTask:
    """A task for a column.

    Attributes:
        column: The target.
        component: Type and settings.
        comment: What was seen, and what else could be meant.
        smallest: Rows of the rarest class; None for what is not one class a row.
    """

    column: str
    component: dict[str, Any]
    comment: str
    smallest: int | None = None


def propose_task(table: Table, column: str) -> ProposedTask:
    """A task that learns a column.

    Raises:
        UserError: The column cannot be learned: it is constant, empty, free text, an identifier, a date, an image, a
            recording.
    """
    values = sample(table, column)
    kind = table.types[column]
    known = values.drop_null()
    if pa.types.is_floating(known.type):
        known = known.filter(pc.is_finite(known))
    if len(known) == 0:
        raise _unusable(table, column, "has no values")
    if kind is ColumnType.IMAGE and (masks := propose_masks(table, column)) is not None:
        return ProposedTask(column, *masks)
    if kind in (ColumnType.IMAGE, ColumnType.AUDIO, ColumnType.DATE, ColumnType.OTHER):
        raise _unusable(table, column, f"is of the type '{kind.value}'", "A target is a class, labels or a number.")
    if kind is ColumnType.LIST and is_list(known.type):
        return _labels(table, column, known)
    if kind is ColumnType.NUMBER:
        return _number(table, column, known)
    separator = _separator(known) if kind is not ColumnType.BOOLEAN else None
    if separator is not None:
        return _labels(table, column, pc.split_pattern(class_names(known), separator), separator)
    return _category(table, column, known, kind)


def sample(table: Table, column: str) -> pa.ChunkedArray:
    """Some values of a column, spread evenly over the rows."""
    rows = None
    if len(table) > SAMPLE_ROWS:
        rows = np.linspace(0, len(table) - 1, SAMPLE_ROWS).astype(np.int64)
    return table.take(rows, [column]).column(0)


def counts_rows(values: pa.ChunkedArray) -> bool:
    """Whether integers rise by the same step from row to row: they say where a row stands, not what it is."""
    if not pa.types.is_integer(values.type) or values.null_count or len(values) < RARE:
        return False
    first = values.slice(0, 1000).to_numpy().astype(np.int64)
    steps = np.diff(first)
    return bool(steps[0] != 0 and (steps == steps[0]).all())


def _category(table: Table, column: str, known: pa.ChunkedArray, kind: ColumnType) -> ProposedTask:
    counts = count_names(class_names(known))
    _require_variety(table, column, counts)
    if kind is ColumnType.TEXT or 2 * len(counts) > counts.total():
        seen = f"{len(counts):,} different values in {counts.total():,} rows"
        what = "holds free text or an identifier" if kind is ColumnType.TEXT else "has nearly a class for each row"
        raise _unusable(table, column, f"{what} ({seen})", "A target is a class that repeats, labels or a number.")
    return _classification(column, counts)


def _classification(column: str, counts: Counter[str], note: str = "") -> ProposedTask:
    ordered = counts.most_common()
    (common, most), least = ordered[0], ordered[-1][1]
    component: dict[str, Any] = {"type": "classification", "target": column}
    comment = f"{len(counts)} classes, the most frequent one, '{common}', in {most / counts.total():.0%} of the rows"
    if most > _IMBALANCE * least:
        component["metric"] = "balanced_accuracy"
        comment += ": classes of different size count the same in the metric"
        if most <= _GREATEST_WEIGHT * least:
            component["class_weights"] = "balanced"
            comment += " and in the loss"
    return ProposedTask(column, component, f"{comment}.{note}", least)


def _number(table: Table, column: str, known: pa.ChunkedArray) -> ProposedTask:
    if counts_rows(known):
        raise _unusable(table, column, "only counts the rows", "A target is something that the inputs can tell.")
    counts = count_names(class_names(known))
    _require_variety(table, column, counts)
    numbers = pc.cast(known, pa.float64(), safe=False).to_numpy()
    if len(counts) == 2:
        return _classification(column, counts)
    if _is_code(counts):
        return _classification(column, counts, " If these numbers measure something, the type is regression.")
    component: dict[str, Any] = {"type": "regression", "target": column}
    comment = f"{numbers.min():.4g} to {numbers.max():.4g}, mean {numbers.mean():.4g}."
    if _has_outliers(numbers):
        component["loss"] = "huber"
        comment += " Some values are far out: the Huber loss is less led by them."
    if len(counts) <= _MOST_CODES and (numbers == np.floor(numbers)).all():
        comment += " If these numbers name classes, the type is classification."
    return ProposedTask(column, component, comment)


def _is_code(counts: Counter[str]) -> bool:
    """0, 1, 2... each about as frequent: class numbers. A count or a grade has a peak, or starts elsewhere."""
    codes = {str(code) for code in range(len(counts))}
    return len(counts) <= _MOST_CODES and set(counts) == codes and max(counts.values()) <= 5 * min(counts.values())


def _has_outliers(numbers: np.ndarray) -> bool:
    low, middle, high = np.quantile(numbers, (0.25, 0.5, 0.75))
    return bool(high > low and np.abs(numbers - middle).max() > 10 * (high - low))


def _labels(table: Table, column: str, lists: pa.Array, separator: str | None = None) -> ProposedTask:
    values = pc.list_flatten(lists)
    if pa.types.is_floating(values.type) or pa.types.is_nested(values.type):
        raise _unusable(table, column, f"holds lists of {values.type}", "Lists of labels can be learned.")
    counts = count_names(_label_names(values))
    if len(counts) == 0 or (len(counts) == 1 and counts.total() == len(lists)):
        raise _unusable(table, column, "has the same labels in every row", "There is nothing to learn.")
    if len(counts) > _MOST_LABELS:
        raise _unusable(table, column, f"has {len(counts):,} different labels", f"At most {_MOST_LABELS} are proposed.")
    component: dict[str, Any] = {"type": "multi_label", "target": column}
    if separator is not None:
        component["separator"] = separator
    if min(counts.values()) < 2 * RARE or len(table) > SAMPLE_ROWS:
        component["classes"] = list(in_order(_all_labels(table, column, separator)))
    share = counts.total() / (len(lists) * len(counts))
    if share < 0.05:
        component["metric"] = "average_precision"
    comment = f"{len(counts)} labels, {counts.total() / len(lists):.2g} a row."
    return ProposedTask(column, component, comment)


def _label_names(values: pa.Array) -> pa.Array:
    return class_names(pc.utf8_trim_whitespace(values) if pa.types.is_large_string(values.type) else values)


def _all_labels(table: Table, column: str, separator: str | None) -> set[str]:
    """Every label of the column: one that the sample, or the training part, happens not to have belongs to the task."""
    found: set[str] = set()
    for _, part in table.batches([column]):
        values = part.column(0).combine_chunks()
        lists = values if separator is None else pc.split_pattern(class_names(values), separator)
        found.update(_label_names(pc.list_flatten(lists)).drop_null().unique().to_pylist())
    return found


def _separator(known: pa.ChunkedArray) -> str | None:
    """What separates labels in a text column: the parts repeat more than the wholes do, and are short."""
    texts = class_names(known).drop_null()
    whole = pc.count_distinct(texts).as_py()
    for separator in _SEPARATORS:
        if pc.mean(pc.match_substring(texts, separator).cast(pa.int8())).as_py() < 0.1:
            continue
        parts = pc.list_flatten(pc.split_pattern(texts, separator))
        names = pc.utf8_trim_whitespace(parts).unique()
        words = pc.mean(pc.count_substring_regex(names, r"\S+")).as_py()
        if len(names) <= 0.7 * whole and len(names) <= _MOST_LABELS and words <= 3:
            return separator
    return None


def _require_variety(table: Table, column: str, counts: Counter[str]) -> None:
    if len(counts) > 1:
        return
    ((only, _),) = counts.items()
    for _, part in table.batches([column]) if len(table) > SAMPLE_ROWS else ():
        others = set(class_names(part.column(0)).drop_null().unique().to_pylist()) - {only}
        if others:
            counts[others.pop()] += 1
            return
    raise _unusable(table, column, f"has the value '{only}' in every row", "There is nothing to learn.")


def _unusable(table: Table, column: str, problem: str, allowed: str = "") -> UserError:
    return UserError(f"{table.source}: the column '{column}' cannot be a target: it {problem}. {allowed}".rstrip())
