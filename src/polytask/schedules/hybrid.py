"""Groups of tasks that take turns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from polytask.components import Nested
from polytask.errors import UserError, closest, listing
from polytask.schedules.grouping import grouped
from polytask.schedules.orders import Metrics, Order
from polytask.schedules.report import EpochReport, Turn
from polytask.schedules.taking_turns import TakingTurns

logger = logging.getLogger("polytask")


class Hybrid(TakingTurns):
    """Groups of tasks: a step is for all tasks of one group, and the groups take turns.

    Tasks that get on share their gradients; those that do not are kept apart in time. A group draws rows that are
    labelled for any of its tasks, and has the size of all of these.

    With `groups: affinity` the groups are found while training, after the idea of selective task group updates (Jeong
    and Yoon, Selective Task Group Updates for Multi-Task Optimization, ICLR 2025), who update groups of tasks with an
    affinity above 0 one after the other and measure it on the way. Here the affinity of two tasks is the cosine between
    their gradients for the parameters that both reach, not the paper's lookahead, so that it does not depend on the
    learning rate: at the end of each epoch it is the mean over `probes` batches with rows of all tasks, and then
    `C <- decay C + (1 - decay) C_new`. Average-linkage clustering on `1 - C` makes groups of it for the next epoch. In
    the first one all tasks are one group. The groups are written to the run's log.

    Args:
        groups: The tasks of each group, every task in just one; or `affinity`.
        order: Which group comes next: the name of an order, or a mapping with its type and settings.
        consecutive: Steps in a row that a group has when it is its turn.
        number: With `affinity`, how many groups there are; null: by `threshold`.
        threshold: With `affinity`, groups are merged while their mean cosine is at least this, from -1 to 1; null: 0.
        decay: With `affinity`, what earlier epochs' cosines count for, from 0 to below 1.
        probes: With `affinity`, batches that cosines are measured on at the end of an epoch. Each costs a forward pass
            and a backward pass for each task.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[str]] | Literal["affinity"],
        order: Annotated[Order | str, Nested("order")] = "round_robin",
        consecutive: int = 1,
        *,
        number: int | None = None,
        threshold: float | None = None,
        decay: float = 0.5,
        probes: int = 4,
    ) -> None:
        super().__init__(order, consecutive)
        if groups == "affinity":
            if number is not None and threshold is not None:
                raise UserError("Give number or threshold, not both: either says where groups are no longer merged.")
        elif isinstance(groups, str):
            raise UserError(f"groups is '{groups}', but must be a list of lists of tasks, or 'affinity'.")
        elif number is not None or threshold is not None:
            raise UserError("number and threshold are for groups: affinity, but here the groups are given.")
        if number is not None and number < 1:
            raise UserError(f"number is {number}, but must be at least 1.")
        if threshold is not None and not -1 <= threshold <= 1:
            raise UserError(f"threshold is {threshold:g}, but must be from -1 to 1, as cosines are.")
        if not 0 <= decay < 1:
            raise UserError(f"decay is {decay:g}, but must be at least 0 and below 1.")
        if probes < 1:
            raise UserError(f"probes is {probes}, but must be at least 1.")
        self.groups = None if groups == "affinity" else tuple(tuple(group) for group in groups)
        self.number = number
        self.threshold = 0.0 if threshold is None else threshold
        self.decay = decay
        self._probes = probes
        self._cosines: np.ndarray | None = None
        self._found: tuple[Turn, ...] = ()
        self._epochs = 0

    @property
    def regroups(self) -> bool:
        """See `Schedule.regroups`."""
        return self.groups is None

    @property
    def probes(self) -> int:
        """See `Schedule.probes`."""
        return self._probes if self.groups is None else 0

    def check(self, tasks: Metrics, epochs: int) -> None:
        """See `Schedule.check`."""
        if self.groups is not None:
            _check_partition(self.groups, tasks)
        elif self.number is not None and self.number > len(tasks):
            raise UserError(f"number is {self.number}, but there are {len(tasks)} tasks: {listing(tasks)}.")
        self.order.check(self.groups, tasks)

    def prepare(self, rows: Mapping[str, int], *, epochs: int = 1, union: Callable[[Turn], int] | None = None) -> None:
        """See `Schedule.prepare`."""
        super().prepare(rows, epochs=epochs, union=union)
        given = [self.tasks] if self.groups is None else self.groups
        self._found = tuple(tuple(task for task in self.tasks if task in group) for group in given)

    def possible(self) -> Sequence[Turn]:
        """See `TakingTurns.possible`."""
        return self._found

    def epoch_end(self, report: EpochReport) -> None:
        """See `Schedule.epoch_end`."""
        super().epoch_end(report)
        self._epochs += 1
        if self.groups is not None or report.cosines is None:
            return
        new = report.cosines
        if self._cosines is None:
            self._cosines = new.copy()
        else:
            mixed = self.decay * self._cosines + (1 - self.decay) * new
            one_only = np.where(np.isnan(new), self._cosines, new)
            self._cosines = np.where(np.isnan(mixed), one_only, mixed)
        self._regroup()
        names = " | ".join(", ".join(group) for group in self._found)
        logger.info("Groups from epoch %d on: %s", self._epochs + 1, names)

    def _regroup(self) -> None:
        assert self._cosines is not None
        found = grouped(self._cosines, number=self.number, threshold=self.threshold)
        self._found = tuple(tuple(self.tasks[index] for index in group) for group in found)

    def state_dict(self) -> dict[str, Any]:
        """See `Schedule.state_dict`."""
        cosines = None if self._cosines is None else self._cosines.tolist()
        return {**super().state_dict(), "epochs": self._epochs, "cosines": cosines}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Schedule.load_state_dict`."""
        super().load_state_dict(state)
        self._epochs = state["epochs"]
        if state["cosines"] is not None:
            self._cosines = np.array(state["cosines"], dtype=float)
            self._regroup()


def _check_partition(groups: Sequence[Sequence[str]], tasks: Metrics) -> None:
    rule = "Each task belongs to just one group."
    seen: dict[str, int] = {}
    for number, group in enumerate(groups, start=1):
        if not group:
            raise UserError(f"group {number} of groups has no task. {rule}")
        for task in group:
            if task not in tasks:
                raise UserError(f"groups names no task '{task}'.{closest(task, tasks)} The tasks: {listing(tasks)}.")
            if task in seen:
                where = "twice in group" if seen[task] == number else f"in group {seen[task]} and in group"
                raise UserError(f"the task '{task}' is {where} {number} of groups. {rule}")
            seen[task] = number
    missing = [task for task in tasks if task not in seen]
    if missing:
        raise UserError(f"groups lacks the task {listing(missing)}, which would never be trained. {rule}")
