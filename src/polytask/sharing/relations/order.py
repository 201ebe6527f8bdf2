"""In which order related tasks are computed, and whether there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import NamedTuple

from polytask.errors import closest, listing
from polytask.sharing.relations.relation import Relation


class RelationProblem(NamedTuple):
    """Something wrong with a relation.

    Attributes:
        number: Which of the relations, from 0.
        parameter: Which of its parameters; None: all of it.
        message: What is wrong, and how to mend it.
    """

    number: int
    parameter: str | None
    message: str


def problems_of(relations: Sequence[Relation], tasks: Sequence[str]) -> Iterator[RelationProblem]:
    """All that is wrong with some relations among tasks of these names."""
    known = True
    for number, relation in enumerate(relations):
        named = (("task", relation.task), *(("reads", name) for name in relation.reads))
        for parameter, name in named:
            if name not in tasks:
                known = False
                message = f"there is no task '{name}'.{closest(name, tasks)} The tasks: {listing(tasks, limit=40)}."
                yield RelationProblem(number, parameter, message)
    if not known:
        return
    try:
        order_of(relations, tasks)
    except CycleError as error:
        circle: list[str] = error.args[1]
        steps = [f"'{reader}' reads '{source}'" for source, reader in pairwise(circle)]
        edges = set(pairwise(circle))
        last = max(
            number
            for number, relation in enumerate(relations)
            if any((source, relation.task) in edges for source in relation.reads)
        )
        yield RelationProblem(
            last,
            None,
            f"the tasks read each other in a circle: {', '.join(steps)}. Each must be computed before it is read, so "
            "take one of these relations out.",
        )


def order_of(relations: Sequence[Relation], tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks in an order in which each comes after those that it reads.

    Raises:
        CycleError: There is none.
    """
    sources: dict[str, list[str]] = {task: [] for task in tasks}
    for relation in relations:
        sources[relation.task] += relation.reads
    return tuple(TopologicalSorter(sources).static_order())
