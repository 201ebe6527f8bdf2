"""Which experts and gates a mixture of experts has, and which tasks each of them serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from polytask.sharing.fusion import Segment
from polytask.sharing.gates import Gate

Reach = frozenset[int]
"""The numbers of the tasks whose losses reach something."""


def shared_name(tasks: Sequence[str]) -> str:
    """What the unit that no task owns is called, beside the tasks."""
    return "(shared)" if "shared" in tasks else "shared"


@dataclass(frozen=True)
class Mixture:
    """How experts and tasks belong together.

    A level has a unit for each task and, where there are shared experts, one more that no task owns. A unit has some
    experts, and a gate whose mixture is what it hands to the next level; in the last level, where there is no next one,
    the shared unit has no gate.

    Attributes:
        gate: Makes a gate for so many pooled features, over so many experts.
        task_experts: The number of experts of each task's unit.
        shared_experts: The number of experts of the shared unit.
        sees_all: Whether a task's gate weighs the experts of other tasks too. The shared unit's gate always does.
        residual: Whether a unit's own experts are added to what its gate mixes.
        dropout: Probability of dropping an expert from a gate's mixture while training.
        balance: Strength of the penalty on the experts' imbalance.
    """

    gate: Callable[[int, int], Gate]
    task_experts: int
    shared_experts: int
    sees_all: bool = False
    residual: bool = False
    dropout: float = 0.0
    balance: float = 0.0

    def expert_names(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """The names of a level's experts, in their order: unit by unit."""
        owners = [task for task in tasks for _ in range(self.task_experts)] + [shared_name(tasks)] * self.shared_experts
        own = [*range(1, self.task_experts + 1)] * len(tasks) + [*range(1, self.shared_experts + 1)]
        if not self.task_experts:
            return tuple(f"expert {number}" for number in own)
        return tuple(f"{owner} expert {number}" for owner, number in zip(owners, own, strict=True))


@dataclass(frozen=True)
class Group:
    """Experts that read the same features and are reached by the same tasks, so that they can be computed as one.

    Attributes:
        unit: The unit whose features they read, or one of several with the same ones.
        start: The first of them among the experts of the level.
        stop: One behind the last.
        reach: The tasks.
    """

    unit: int
    start: int
    stop: int
    reach: Reach


@dataclass(frozen=True)
class Mix:
    """What the gate of a unit weighs.

    Attributes:
        columns: The experts, by their numbers in the level.
        segments: The same ones by group.
        own: Which of them are added once more, `(start, stop)` in `columns`.
        reach: The tasks that the mixture is for.
    """

    columns: tuple[int, ...]
    segments: tuple[Segment, ...]
    own: tuple[int, int] | None
    reach: Reach


@dataclass(frozen=True)
class LevelPlan:
    """A level.

    Attributes:
        groups: Its experts.
        mixes: For each unit with a gate: the tasks' in order, then the shared unit's if it has one.
    """

    groups: tuple[Group, ...]
    mixes: tuple[Mix, ...]


def plan(mixture: Mixture, tasks: int, levels: int) -> list[LevelPlan]:
    """The levels, from the input on."""
    counts = [mixture.task_experts] * tasks + [mixture.shared_experts]
    found: list[LevelPlan] = []
    # Backwards, since what a level is for depends on those behind it.
    served: list[Reach] = [frozenset({task}) for task in range(tasks)]
    for level in reversed(range(levels)):
        seen = [_seen(unit, counts, mixture.sees_all) for unit in range(len(served))]
        experts = [
            frozenset[int]().union(*(reach for reach, units in zip(served, seen, strict=True) if unit in units))
            for unit in range(tasks + 1)
        ]
        groups = _groups(counts, experts, alike=level == 0)
        mixes = [
            _mix(unit, units, counts, groups, reach=reach, residual=mixture.residual)
            for unit, (units, reach) in enumerate(zip(seen, served, strict=True))
        ]
        found.insert(0, LevelPlan(tuple(groups), tuple(mixes)))
        # The level before has a shared gate, and what a unit hands on is read by its experts and by its gate.
        gates = [*served, frozenset[int]()][: tasks + 1]
        served = [reach | gate for reach, gate in zip(experts, gates, strict=True)]
        if not mixture.shared_experts:
            served.pop()
    return found


def _seen(unit: int, counts: Sequence[int], sees_all: bool) -> list[int]:
    """The units whose experts a unit's gate weighs."""
    shared = len(counts) - 1
    units = range(len(counts)) if sees_all or unit == shared else (unit, shared)
    return [each for each in units if counts[each]]


def _groups(counts: Sequence[int], reach: Sequence[Reach], alike: bool) -> list[Group]:
    """The groups of a level; where all units read the same features (`alike`), a group can have several of them."""
    units = [unit for unit, count in enumerate(counts) if count]
    runs = [list(run) for _, run in groupby(units, key=lambda unit: reach[unit])] if alike else [[u] for u in units]
    return [Group(run[0], sum(counts[: run[0]]), sum(counts[: run[-1] + 1]), reach[run[0]]) for run in runs]


def _mix(
    unit: int, seen: Sequence[int], counts: Sequence[int], groups: Sequence[Group], *, reach: Reach, residual: bool
) -> Mix:
    starts = [sum(counts[:each]) for each in range(len(counts))]
    columns = [column for each in seen for column in range(starts[each], starts[each] + counts[each])]
    segments: list[Segment] = []
    for number, group in enumerate(groups):
        for column in columns:
            if not group.start <= column < group.stop:
                continue
            place = column - group.start
            if segments and segments[-1].group == number and segments[-1].stop == place:
                segments[-1] = segments[-1]._replace(stop=place + 1)
            else:
                segments.append(Segment(number, place, place + 1))
    own = columns.index(starts[unit]) if residual else None
    return Mix(tuple(columns), tuple(segments), None if own is None else (own, own + counts[unit]), reach)
