"""A tree of stages: at each depth the tasks fall into groups, and each group has a stage of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from polytask.encoders import Encoder, Features, Stage
from polytask.modules import NamedModules
from polytask.sharing.rows import union_of, within
from polytask.sharing.sharing import EncoderTrunk, Part, TrunkOutput, select_rows

Partition = Sequence[Sequence[str]]
"""Groups of tasks; each task is in one of them."""


@dataclass(frozen=True)
class _Branch:
    """A group of tasks at one depth.

    Attributes:
        tasks: The tasks.
        key: Names its stage among those of this depth: the first of the tasks.
        children: The groups that it falls into at the next depth.
    """

    tasks: tuple[str, ...]
    key: str
    children: tuple[_Branch, ...]


class TreeTrunk(EncoderTrunk):
    """An encoder whose stages are shared by groups of tasks that get smaller from the input on.

    Copies of a stage start from the same values.

    Args:
        name: The input.
        encoder: Its stages are what the tasks share.
        tasks: All tasks.
        partitions: The groups at each depth; those at one depth lie within those at the depth before.
    """

    def __init__(self, name: str, encoder: Encoder, tasks: Sequence[str], partitions: Sequence[Partition]) -> None:
        super().__init__(name, encoder, tasks)
        self._roots = _branches(tuple(tasks), partitions)
        levels = _placed(self._roots, list(encoder.stages.values()))
        self.levels = NamedModules({name: NamedModules(level) for name, level in zip(self._names, levels, strict=True)})

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`. Where nothing is shared, the raw input takes the place of shared features."""
        wanted = {task: rows.get(task) for task in tasks}
        found: dict[str, Features] = {}
        # Branches with what comes from the stage before them, and which rows of the batch that is (None: all).
        waiting: list[tuple[_Branch, int, Any, Tensor | None]] = [
            (root, 0, inputs[self.input], None) for root in self._roots
        ]
        while waiting:
            branch, depth, given, positions = waiting.pop()
            needed = [wanted[task] for task in branch.tasks if task in wanted]
            if not needed:
                continue
            # A stage of all tasks sees all rows, those without any label too.
            if len(branch.tasks) < len(self.tasks) or len(self.tasks) == 1:
                union = union_of(needed)
                given, positions = select_rows(given, within(union, positions)), union
            features = self.levels[self._names[depth]][branch.key](given)
            waiting += [(child, depth + 1, features, positions) for child in branch.children]
            if not branch.children:
                found.update(
                    (task, select_rows(features, within(wanted[task], positions)))
                    for task in branch.tasks
                    if task in wanted
                )
        return TrunkOutput({task: found[task] for task in tasks})

    @property
    def one_for_all(self) -> bool:
        """See `Trunk.one_for_all`: there is a single branch, to the end."""
        branches = self._roots
        while len(branches) == 1 and branches[0].children:
            branches = branches[0].children
        return len(branches) == 1

    def parts(self) -> list[Part]:
        """See `Trunk.parts`."""
        found = []
        branches = list(self._roots)
        for depth, name in enumerate(self._names):
            stages = self.levels[name]
            found += [Part(name, branch.tasks, stages[branch.key], depth) for branch in branches]
            branches = [child for branch in branches for child in branch.children]
        return found


def _branches(tasks: tuple[str, ...], partitions: Sequence[Partition]) -> tuple[_Branch, ...]:
    """The groups of some tasks at the first of the depths, with what is below them; in the tasks' order."""
    if not partitions:
        return ()
    group_of = {task: place for place, group in enumerate(partitions[0]) for task in group}
    groups: dict[int, list[str]] = {}
    for task in tasks:
        groups.setdefault(group_of[task], []).append(task)
    return tuple(_Branch(tuple(group), group[0], _branches(tuple(group), partitions[1:])) for group in groups.values())


def _placed(roots: Sequence[_Branch], stages: Sequence[Stage]) -> list[dict[str, Stage]]:
    """For each depth a stage for each branch: the encoder's own for the first, copies for the others.

    Stages that have weights in common, as those of ALBERT, still have them in common within a branch, but not with
    the stages before the branch parted from others: those belong to other tasks too.
    """
    levels: list[dict[str, Stage]] = [{} for _ in stages]

    def place(branch: _Branch, depth: int, memo: dict[int, Any] | None) -> None:
        levels[depth][branch.key] = stages[depth] if memo is None else copy.deepcopy(stages[depth], memo)
        for place_of, child in enumerate(branch.children):
            goes_on = len(branch.children) == 1 or (place_of == 0 and not _tied(stages, depth + 1))
            place(child, depth + 1, memo if goes_on else {})

    for number, root in enumerate(roots):
        place(root, 0, None if number == 0 else {})
    return levels


def _tied(stages: Sequence[Stage], depth: int) -> bool:
    """Whether stages from a depth on have weights in common with those before."""
    before, after = ({p for stage in part for p in stage.parameters()} for part in (stages[:depth], stages[depth:]))
    return bool(before & after)
