"""A tree of tasks over the stages, given by hand or found from the tasks' affinities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar, get_args

from polytask.encoders import Encoder
from polytask.encoders.limits import at_least, one_of
from polytask.errors import UserError, at_key, closest, listing
from polytask.sharing.affinity import LINKAGES, Linkage, affinity_matrix, agglomerative, check_affinity, fafs
from polytask.sharing.sharing import Sharing, only_encoder
from polytask.sharing.stage_places import StageKey, stage_place
from polytask.sharing.tree import Partition, TreeTrunk

Strategy = Literal["fafs", "agglomerative"]
Level = Sequence[Sequence[str]] | Literal["apart"]
T = TypeVar("T")


class Branching(Sharing):
    """A tree: at each stage the tasks fall into groups, and each group has a copy of the stage.

    Task k sees `f_k = s_L,g_L(k)(... s_1,g_1(k)(x))`, with g_l(k) the group of k at stage l; groups only split on the
    way to the heads. Copies start alike. Bottom sharing (all together up to a stage), middle sharing and sharing of
    the whole encoder are such trees. The tree is given by hand:

    ```yaml
    tree: {layer2: [[a, b], [c]], layer4: apart}   # layer1: all together; layer2 and 3: a with b; from layer4: alone
    ```

    or it is computed from the tasks' `affinity`, any number that is high where two tasks belong together: the share of
    rows on which both networks of their own are right or both wrong (the paper's), the agreement of their gradients...

    `fafs` is fully-adaptive feature sharing (Lu, Kumar, Zhai, Cheng, Javidi and Feris, "Fully-adaptive Feature Sharing
    in Multi-Task Networks with Applications in Person Attribute Classification", CVPR 2017). From the heads down, the
    c branches above a stage are put into the d groups, found by spectral clustering for each d from 1 to c, for which
    `(d - 1) cost growth^p + 1/d sum_groups (1 - mean_k min_m A(k, m))` is least, where k and m are branches of a group
    and p is the number of stages above. The affinity of two branches is the mean over the tasks of one of the least
    affinity to a task of the other, averaged over both ways round. The paper's p counts pooling layers, with
    growth 2; only the ratio of its two weights matters, so that `branch_cost` stands for it. The paper repeats this
    while it trains, on a thin network that it widens; here the affinities are given, and the tree is fixed before
    training.

    `agglomerative` joins, from the tasks on, the two groups that go together best, and has the number of groups that
    `groups` names at each stage.

    For tasks that are known or measured to fall into families, at a cost between one network and one a task.

    Args:
        tree: For a stage, by name or number (1 is the first, -1 the last), the groups of tasks from this stage on, as
            lists of names; `apart` stands for each task by itself. Before the first stage named, all are together.
        affinity: For a task and another the affinity, once for each pair; tasks beside the model's may be there.
        strategy: How the tree is computed from `affinity`; `fafs` needs numbers from 0 to 1.
        branch_cost: Of `fafs`: what one more branch costs at the last stage, compared with affinities; 0 keeps
            all apart whose affinity is not 1, and from 1 on nothing branches.
        cost_growth: Of `fafs`: how many times as much a branch costs at the stage below.
        groups: Of `agglomerative`: for a stage, the number of groups from this stage on; before the first, one.
        linkage: Of `agglomerative`: the affinity of two groups is the mean over pairs of tasks (`average`), the least
            (`complete`) or the greatest (`single`).

    Raises:
        UserError: Neither or both of `tree` and `affinity` are given, or a parameter is out of its limits.
    """

    def __init__(
        self,
        tree: Mapping[str | int, Sequence[Sequence[str]] | Literal["apart"]] | None = None,
        *,
        affinity: Mapping[str, Mapping[str, float]] | None = None,
        strategy: Strategy = "fafs",
        branch_cost: float = 0.05,
        cost_growth: float = 2.0,
        groups: Mapping[str | int, int] | None = None,
        linkage: Linkage = "average",
    ) -> None:
        if (tree is None) == (affinity is None):
            raise UserError(
                "branching needs either a 'tree', for example {layer2: [[a, b], [c]]}, or the tasks' 'affinity' to "
                "compute one from; not both."
            )
        one_of(get_args(Strategy), strategy=strategy)
        one_of(LINKAGES, linkage=linkage)
        for name, value, least in (("branch_cost", branch_cost, 0.0), ("cost_growth", cost_growth, 1.0)):
            if not (math.isfinite(value) and value >= least):
                raise UserError(f"'{name}' must be a number of at least {least:g}, but {value} was given.")
        if (groups is not None) != (affinity is not None and strategy == "agglomerative"):
            raise UserError(
                "branching: 'groups', the number of groups from a stage on, for example {layer2: 2, layer4: 3}, "
                "goes with the strategy 'agglomerative' and an 'affinity', which need it."
            )
        if tree is not None:
            _check_tree(tree)
        if affinity is not None:
            check_affinity(affinity)
        for stage, count in (groups or {}).items():
            at_least(1, **{f"groups: {stage}": count})
        self.tree, self.affinity = tree, affinity
        self.strategy, self.branch_cost, self.cost_growth = strategy, branch_cost, cost_growth
        self.groups, self.linkage = groups, linkage

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> TreeTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        with at_key("branching"):
            partitions = self.partitions(encoder.stage_names, tasks)
        return TreeTrunk(name, encoder, tasks, partitions)

    def partitions(self, stages: Sequence[str], tasks: Sequence[str]) -> list[Partition]:
        """The groups of tasks at each stage.

        Args:
            stages: The stages' names, in order.
            tasks: The tasks.

        Raises:
            UserError: The tree names a stage or a task that is not there, lacks a task, or joins what it separated
                before; or the affinities do not fit.
        """
        if self.tree is not None:
            return _from_tree(self.tree, stages, tasks)
        assert self.affinity is not None
        matrix = affinity_matrix(self.affinity, tasks)
        if self.groups is not None:
            counts = _filled(self.groups, stages, 1)
            for before, count in zip([1, *counts], counts, strict=False):
                if not before <= count <= len(tasks):
                    raise UserError(
                        f"'groups' gives {count} after {before}, but the number of groups can only grow from the input "
                        f"on, and at most to the number of tasks, {len(tasks)}."
                    )
            found = agglomerative(matrix, counts, self.linkage)
        elif not (matrix.min() >= 0 and matrix.max() <= 1):
            raise UserError(
                "the strategy 'fafs' weighs affinities against the cost of branches and needs them from 0 to 1, but "
                f"they are from {matrix.min():g} to {matrix.max():g}. Rescale them (a correlation r as (1 + r) / 2), "
                "or take the strategy 'agglomerative'."
            )
        else:
            found = fafs(matrix, len(stages), self.branch_cost, self.cost_growth)
        return [[[tasks[each] for each in group] for group in level] for level in found]


def _check_tree(tree: Mapping[str | int, Level]) -> None:
    """What can be said of a tree without stages and tasks."""
    if not tree:
        raise UserError("branching: the 'tree' is empty. Name a stage and the groups that hold from it on.")
    for stage, groups in tree.items():
        if isinstance(groups, str):
            one_of(("apart",), **{f"tree: {stage}": groups})
            continue
        seen: set[str] = set()
        for group in groups:
            if not group or isinstance(group, str):
                raise UserError(
                    f"branching: at '{stage}' the 'tree' has {group!r} for a group. A group is a list of one or more "
                    "tasks: [[a, b], [c]]."
                )
            for task in group:
                if task in seen:
                    raise UserError(f"branching: at '{stage}' the 'tree' has the task '{task}' twice. It goes once.")
                seen.add(task)


def _from_tree(tree: Mapping[str | int, Level], stages: Sequence[str], tasks: Sequence[str]) -> list[Partition]:
    """The partition at each stage, checked against the tasks and those before it."""

    def completed(stage: StageKey, groups: Level) -> Partition:
        if isinstance(groups, str):
            return [[task] for task in tasks]
        named = [task for group in groups for task in group]
        for task in named:
            if task not in tasks:
                raise UserError(
                    f"at '{stage}' the tree names '{task}', but there is no such task.{closest(task, tasks)} "
                    f"The tasks: {listing(tasks)}."
                )
        missing = [task for task in tasks if task not in named]
        if missing:
            raise UserError(
                f"at '{stage}' the tree has no group with {listing(missing)}. Each task is in one group of each "
                "partition."
            )
        return groups

    partitions = _filled(tree, stages, [list(tasks)], completed)
    for depth in range(1, len(stages)):
        before = {task: number for number, group in enumerate(partitions[depth - 1]) for task in group}
        for group in partitions[depth]:
            other = next((task for task in group if before[task] != before[group[0]]), None)
            if other is not None:
                raise UserError(
                    f"the tree puts '{group[0]}' and '{other}' together from '{stages[depth]}' on, but they are apart "
                    f"at '{stages[depth - 1]}'. What has split stays apart."
                )
    return partitions


def _filled(
    given: Mapping[str | int, T],
    stages: Sequence[str],
    first: T,
    completed: Callable[[StageKey, T], T] = lambda _, value: value,
) -> list[T]:
    """A value for each stage, where each one given holds from its stage on.

    Raises:
        UserError: There is no such stage, or one is named twice.
    """
    at: dict[int, T] = {}
    for stage, value in given.items():
        place = stage_place(stage, stages)
        if place in at:
            raise UserError(f"the stage '{stages[place]}' is named twice, by name and by number.")
        at[place] = completed(stage, value)
    found = []
    current = first
    for place in range(len(stages)):
        current = at.get(place, current)
        found.append(current)
    return found
