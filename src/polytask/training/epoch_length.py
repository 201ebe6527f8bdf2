"""How many steps an epoch has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from polytask.errors import UserError, closest, listing
from polytask.schedules import Turn
from polytask.training.task_streams import Pass

Length = str | int
"""Steps in an epoch: their number, `rows`, `largest`, `smallest`, or the name of a task; see `steps_of_epoch`."""


def steps_of_epoch(
    length: Length,
    epoch: int,
    pools: Mapping[Turn, float],
    passes: Callable[[Turn], Sequence[Pass]],
    tasks: Sequence[str],
) -> int:
    """How many steps an epoch has.

    Args:
        length: A number; `rows`: as many as it takes to pass once through the rows of every turn, added up; `largest`,
            `smallest` or a task: until its rows have been passed once.
        epoch: The epoch, counted from 0.
        pools: The turns that there may be in it, each with its expected share of the steps.
        passes: What it takes to pass once through the rows of a turn.
        tasks: All tasks.

    Raises:
        UserError: There is no turn in the epoch, or none of the task that the length names.
    """
    if not pools:
        raise UserError(
            f"The schedule has no turn in epoch {epoch + 1}: no task that has started takes part in it then. Let a "
            "task start earlier, or leave the others in."
        )
    if isinstance(length, int):
        return length
    if length == "rows":
        return sum(max(each.steps for each in passes(turn)) for turn in pools)
    # While a turn makes its pass, the others take their shares of the steps.
    found = [
        each._replace(steps=int(-(-each.steps // share)))
        for turn, share in pools.items()
        if share > 0
        for each in passes(turn)
    ]
    if length in ("largest", "smallest"):
        choose = max if length == "largest" else min
        return choose(found, key=lambda each: each.rows).steps
    of_task = [each.steps for each in found if length in each.tasks]
    if not of_task and length in tasks:
        raise UserError(
            f"training.epoch_length is '{length}', but this task has no turn in epoch {epoch + 1}. Take another "
            "length, such as rows."
        )
    if not of_task:
        allowed = ("rows", "largest", "smallest", *tasks)
        raise UserError(
            f"training.epoch_length is '{length}', which is no task.{closest(length, allowed)} Allowed: a number of "
            f"steps, {listing(allowed)}."
        )
    return min(of_task)
