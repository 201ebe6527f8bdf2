"""What sources and tasks demand of each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.class_names import class_names, in_order
from polytask.data.label_sets import holds_lists, lists_in
from polytask.data.source import Source, groups_of
from polytask.errors import UserError, closest, listing
from polytask.labels import TargetSpec

log = logging.getLogger("polytask")

_LARGEST_SET = 10_000
"""More classes than this are not compared: the column is none of classes."""


def check_tasks(sources: Sequence[Source], targets: Mapping[str, TargetSpec], *, unlabelled: bool = False) -> None:
    """Make sure that each task has a source, and each source a task.

    Args:
        sources: The sources.
        targets: How each task's target is to be read.
        unlabelled: Whether a task learns from rows without its label: then sources need not have any.

    Raises:
        UserError: A task's columns are in none of its sources, a source that a task names does not have them, or no
            task reads any column of a source, nor of those that it is joined with.
    """
    for task, spec in targets.items():
        read = [source for source in sources if spec.sources is None or source.name in spec.sources]
        for column in spec.columns:
            there = [source for source in read if source.has(column)]
            if not there:
                raise _no_source(task, column, read, sources)
            for source in read if spec.sources is not None else ():
                if not any(source.has(other) for other in spec.columns):
                    raise UserError(
                        f"Task '{task}' names the source '{source.name}', which has no column '{column}'."
                        f"{closest(column, source.columns)} Its columns: {listing(source.columns, limit=30)}. Take it "
                        "out of the task's `sources`, or give the column that name with `rename`."
                    )
    for group in groups_of(list(sources)) if not unlabelled else ():
        if not any(_labels(spec, source) for spec in targets.values() for source in group):
            raise _no_task(group, targets)


def check_class_names(sources: Sequence[Source], targets: Mapping[str, TargetSpec]) -> None:
    """Make sure that the sources of a task call its classes by the same names, by their tables for training.

    Raises:
        UserError: Two sources have no class in common.
    """
    for task, spec in targets.items():
        if spec.kind not in ("category", "labels") or len(spec.columns) > 1 or spec.classes is not None:
            continue
        column = spec.columns[0]
        sets = {
            source.name: found
            for source in sources
            if _labels(spec, source) and source.tables["train"].has(column)
            if (found := _classes(source, spec)) is not None
        }
        for (here, one), (there, other) in combinations(sets.items(), 2):
            named = (
                f"Task '{task}': the classes of '{column}' are {listing(in_order(one))} in the source '{here}' and "
                f"{listing(in_order(other))} in '{there}'"
            )
            if not one & other:
                raise UserError(
                    f"{named}, with none in common. If they mean the same, rename the values in one of the two. If "
                    f"they are right, list them all with `classes`, or make a task of each with "
                    f"`sources: [{here}]` and `sources: [{there}]`."
                )
            if not (one <= other or other <= one):
                log.warning("%s: each has classes that the other has not. Do some mean the same?", named)


def _labels(spec: TargetSpec, source: Source) -> bool:
    """Whether a source has labels for a target; one without columns needs none."""
    named = spec.sources is None or source.name in spec.sources
    return named and (not spec.columns or any(source.has(column) for column in spec.columns))


def _no_source(task: str, column: str, read: Sequence[Source], sources: Sequence[Source]) -> UserError:
    among = "no source has" if len(read) == len(sources) else f"none of its sources {listing(s.name for s in read)} has"
    near = closest(column, [other for source in read for other in source.columns])
    columns = "; ".join(f"'{source.name}': {listing(source.columns)}" for source in read)
    return UserError(
        f"Task '{task}': {among} the column '{column}', its target.{near} Their columns: {columns}. Set the "
        "task's `target` to one of them, or give a column that name with the source's `rename`."
    )


def _no_task(group: Sequence[Source], targets: Mapping[str, TargetSpec]) -> UserError:
    columns = [column for spec in targets.values() for column in spec.columns]
    names = [source.name for source in group]
    which = f"The source '{names[0]}'" if len(names) == 1 else f"Each of the joined sources {listing(names)}"
    held = [column for source in group for column in source.columns]
    near = next((found for column in columns if (found := closest(column, held))), "")
    return UserError(
        f"{which} labels no task: none of its columns is the target of a task that reads from it.{near} Its columns: "
        f"{listing(held, limit=30)}. The tasks' targets: {listing(columns, limit=30)}. Take the source out, give the "
        "column with its labels a target's name with `rename`, or add it to the task's `sources`. Rows without labels "
        "are for tasks with training.tasks.NAME.unlabelled."
    )


def _classes(source: Source, spec: TargetSpec) -> set[str] | None:
    """The names of the classes in a source; None where there is none, far too many for classes, or yes and no."""
    several = spec.kind == "labels"
    found: set[str] = set()
    for _, part in source.tables["train"].batches(spec.columns):
        values = part.column(0)
        readable = holds_lists(values.type) if several else not pa.types.is_nested(values.type)
        if not readable:
            return None
        names = lists_in(values, spec.separator).names if several else class_names(values)
        found.update(pc.unique(names).drop_null().to_pylist())
        if len(found) > _LARGEST_SET:
            return None
    return found or None
