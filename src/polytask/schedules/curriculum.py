"""Tasks that start one after the other."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from typing_extensions import TypedDict

from polytask.components import Nested
from polytask.errors import UserError, closest, listing
from polytask.schedules.orders import Metrics
from polytask.schedules.report import EpochReport, Turn
from polytask.schedules.schedule import Freeze, InnerLoop, Schedule

logger = logging.getLogger("polytask")

GAIN = "gain"
"""Stands for the share of the constant baseline's error that a task removes."""

_MOST_DRAWS = 64


class After(TypedDict):
    """A task starts in the epoch after another has reached a score.

    Attributes:
        after: The other task.
        metric: One of its metrics on validation data, or `gain`.
        reaches: The score that it must reach: at least this, or at most where lower is better.
    """

    after: str
    metric: str
    reaches: float


class Curriculum(Schedule):
    """Tasks join one after the other: at a given epoch, or when another task is good enough.

    Easy or general tasks first, those that build on them later: curriculum learning (Bengio, Louradour, Collobert and
    Weston, ICML 2009), here over tasks. The tasks that have started are trained by another schedule, in which the
    others are left out of their turns.

    Args:
        start: When tasks start that do not start at once: the epoch, counted from 1; or `{after: a, metric: accuracy,
            reaches: 0.8}`: the epoch after the one in which task `a` reached this score on validation data (`metric:
            gain` is the share of the constant baseline's error that it removes).
        within: The schedule of the tasks that have started: its name, or a mapping with its type and settings.
        freeze: For a stage of the encoder, the first and the last epoch, counted from 1, in which it and all stages
            below it do not learn; null for the last: to the end.
    """

    def __init__(
        self,
        start: Mapping[str, int | After],
        within: Annotated[Schedule | str, Nested("schedule")] = "joint",
        freeze: Mapping[str, tuple[int, int | None]] | None = None,
    ) -> None:
        if isinstance(within, str):
            from polytask.schedules import create

            within = create(within)
        self.start = dict(start)
        self.within = within
        self.freeze = dict(freeze or {})
        for task, epoch in self.start.items():
            if isinstance(epoch, int) and epoch < 1:
                raise UserError(f"start has epoch {epoch} for '{task}', but epochs are counted from 1.")
        for stage, (first, last) in self.freeze.items():
            if first < 1 or (last is not None and last < first):
                raise UserError(
                    f"freeze has [{first}, {'null' if last is None else last}] for '{stage}'. Write the first and the "
                    "last epoch, counted from 1; null for the last: to the end."
                )
        self._met: dict[str, int] = {}
        self._ended = 0

    @property
    def separately(self) -> bool:
        """See `Schedule.separately`."""
        return self.within.separately

    @property
    def regroups(self) -> bool:
        """See `Schedule.regroups`."""
        return self.within.regroups

    @property
    def wants_scores(self) -> bool:
        """See `Schedule.wants_scores`."""
        return self.within.wants_scores or bool(self._conditions())

    @property
    def probes(self) -> int:
        """See `Schedule.probes`."""
        return self.within.probes

    @property
    def inner(self) -> InnerLoop | None:
        """See `Schedule.inner`."""
        return self.within.inner

    @property
    def freezes(self) -> tuple[Freeze, ...]:
        """See `Schedule.freezes`."""
        own = (Freeze(stage, first - 1, last) for stage, (first, last) in self.freeze.items())
        return (*own, *self.within.freezes)

    def check(self, tasks: Metrics, epochs: int) -> None:
        """See `Schedule.check`."""
        for task in (*self.start, *(condition["after"] for condition in self._conditions().values())):
            if task not in tasks:
                raise UserError(f"start names no task '{task}'.{closest(task, tasks)} The tasks: {listing(tasks)}.")
        for task, condition in self._conditions().items():
            _check_metric(task, condition, tasks)
        for task in tasks:
            _check_reached(task, self._earliest(task, ()), epochs)
        if all(self._earliest(task, ()) > 1 for task in tasks):
            raise UserError(
                "start leaves no task for epoch 1. Take at least one out of it: what is not in it is there."
            )
        for stage, (first, _) in self.freeze.items():
            if first > epochs:
                raise UserError(f"freeze has '{stage}' frozen from epoch {first} on, but there are {epochs} epochs.")
        self.within.check(tasks, epochs)

    def prepare(self, rows: Mapping[str, int], *, epochs: int = 1, union: Callable[[Turn], int] | None = None) -> None:
        """See `Schedule.prepare`."""
        super().prepare(rows, epochs=epochs, union=union)
        self.within.prepare(rows, epochs=epochs, union=union)

    def pools(self, epoch: int) -> Mapping[Turn, float]:
        """See `Schedule.pools`. Of a task that waits for another, it is supposed that it will start next."""
        there = self._there(epoch)
        shares: dict[Turn, float] = defaultdict(float)
        for turn, share in self.within.pools(epoch).items():
            left = _among(turn, there)
            if left:
                shares[left] += share
        total = sum(shares.values())
        return {turn: share / total if total > 0 else 1 / len(shares) for turn, share in shares.items()}

    def turns(self, epoch: int, steps: int, generator: np.random.Generator) -> Sequence[Turn]:
        """See `Schedule.turns`."""
        there = self._there(epoch)
        if len(there) == len(self.tasks):
            return self.within.turns(epoch, steps, generator)
        kept = sum(share for turn, share in self.within.pools(epoch).items() if _among(turn, there))
        # Turns of tasks that are not there yet are left out, so more have to be asked for.
        drawn = math.ceil(steps / max(kept, 1 / _MOST_DRAWS))
        found: list[Turn] = []
        while len(found) < steps and drawn <= 2 * _MOST_DRAWS * steps:
            asked = self.within.turns(epoch, drawn, generator)
            found = [left for turn in asked if (left := _among(turn, there))]
            drawn *= 2
        if len(found) < steps:  # The schedule has next to no turns for them.
            pools = self.pools(epoch)
            turns = list(pools)
            chosen = generator.choice(len(turns), size=steps - len(found), p=list(pools.values()))
            found += [turns[index] for index in chosen]
        return found[:steps]

    def epoch_end(self, report: EpochReport) -> None:
        """See `Schedule.epoch_end`."""
        before = self._there(self._ended)
        self._ended += 1
        for task, condition in self._conditions().items():
            if task not in self._met and condition["after"] in before and _reached(condition, report):
                self._met[task] = self._ended
        self.within.epoch_end(report)
        new = [task for task in self._there(self._ended) if task not in before]
        if new:
            logger.info("From epoch %d on there are also: %s", self._ended + 1, ", ".join(new))

    def remarks(self) -> list[str]:
        """See `Schedule.remarks`."""
        waiting = [
            f"The task '{task}' has never been trained: '{condition['after']}' did not reach {condition['metric']} "
            f"{condition['reaches']:g}."
            for task, condition in self._conditions().items()
            if self._met.get(task, math.inf) >= self._ended
        ]
        late = [
            f"The task '{task}' has never been trained: it was to start in epoch {epoch}."
            for task, epoch in self.start.items()
            if isinstance(epoch, int) and epoch > self._ended
        ]
        return [*waiting, *late, *self.within.remarks()]

    def state_dict(self) -> dict[str, Any]:
        """See `Schedule.state_dict`."""
        return {"met": dict(self._met), "ended": self._ended, "within": self.within.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Schedule.load_state_dict`."""
        self._met, self._ended = dict(state["met"]), state["ended"]
        self.within.load_state_dict(state["within"])

    def _conditions(self) -> dict[str, After]:
        return {task: start for task, start in self.start.items() if not isinstance(start, int)}

    def _there(self, epoch: int) -> list[str]:
        """The tasks of an epoch. It is not known yet what will come later: tasks that wait count as there."""
        return [task for task in self.tasks if self._has_started(task, epoch)]

    def _has_started(self, task: str, epoch: int) -> bool:
        start = self.start.get(task, 1)
        if isinstance(start, int):
            return epoch + 1 >= start
        return epoch > self._ended or self._met.get(task, math.inf) <= epoch

    def _earliest(self, task: str, waiting: tuple[str, ...]) -> int:
        """The first epoch, counted from 1, in which a task can start."""
        if task in waiting:
            circle = " -> ".join([*waiting[waiting.index(task) :], task])
            raise UserError(f"start has tasks that wait for each other, so that none ever starts: {circle}.")
        start = self.start.get(task, 1)
        return start if isinstance(start, int) else self._earliest(start["after"], (*waiting, task)) + 1


def _check_metric(task: str, condition: After, tasks: Metrics) -> None:
    after, metric = condition["after"], condition["metric"]
    known = tasks[after]
    if known is not None and metric not in (GAIN, *known):
        allowed = (GAIN, *known)
        raise UserError(
            f"start has '{task}' wait for the metric '{metric}' of '{after}', which has no such metric."
            f"{closest(metric, allowed)} Allowed: {listing(allowed)}."
        )


def _check_reached(task: str, earliest: int, epochs: int) -> None:
    if earliest > epochs:
        raise UserError(
            f"start never lets '{task}' start: it can begin with epoch {earliest} at the earliest, but there are "
            f"{epochs} epochs. Give training.epochs more, or let it start earlier."
        )


def _reached(condition: After, report: EpochReport) -> bool:
    after, metric, wanted = condition["after"], condition["metric"], condition["reaches"]
    if metric == GAIN:
        return report.gains.get(after, math.nan) >= wanted
    score = report.scores.get(after, {}).get(metric, math.nan)
    return score >= wanted if report.higher_is_better.get(metric, True) else score <= wanted


def _among(turn: Iterable[str], tasks: Collection[str]) -> Turn:
    return tuple(task for task in turn if task in tasks)
