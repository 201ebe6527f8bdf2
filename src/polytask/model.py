"""The multi-task model: encoders, sharing, heads."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch import Tensor, nn

from polytask.data.batch import Batch
from polytask.encoders import Encoder
from polytask.errors import UserError, listing
from polytask.modules import NamedModules
from polytask.sharing import Hard, LearnedTable, Part, Sharing
from polytask.sharing.description import mermaid, model_tree
from polytask.sharing.relations import Read, RelatedTasks, Relation
from polytask.sharing.rows import within
from polytask.sharing.sharing import reached_by_several, select_rows
from polytask.tasks import Task
from polytask.tasks.together import is_plain_linear, losses_together, outputs_together

if TYPE_CHECKING:
    from rich.tree import Tree


_MULTIPLICATIONS_OF_A_CALL = 500_000
"""How many multiplications take about as long as the calls of one task, forward and backward, some 0.1 ms."""


class Objectives(NamedTuple):
    """What a batch is trained on.

    Attributes:
        losses: The loss of each task that has a label in the batch.
        penalties: What the sharing scheme adds to the objective, its strength included, by name; see `TrunkOutput`.
    """

    losses: dict[str, Tensor]
    penalties: dict[str, Tensor]


class MultiTaskModel(nn.Module):
    """One network for several tasks.

    Args:
        encoders: An encoder for each input, by the input's name.
        tasks: The tasks; their names differ.
        sharing: Which stages of the encoders the tasks have in common.
        relations: Which tasks read other tasks' predictions or features.

    Raises:
        UserError: There is no task, two have the same name, or the sharing scheme or a relation cannot be applied.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        tasks: Sequence[Task],
        sharing: Sharing | None = None,
        relations: Sequence[Relation] = (),
    ) -> None:
        super().__init__()
        names = [task.name for task in tasks]
        if not names:
            raise UserError("A model needs at least one task.")
        if len(set(names)) != len(names):
            raise UserError(f"Two tasks have the same name: {listing(names)}.")
        self.trunk = (sharing or Hard()).build(encoders, names)
        self.tasks: NamedModules[Task] = NamedModules({task.name: task for task in tasks})
        shapes = {name: self.trunk.shape(name) for name in names}
        if relations and self.trunk.tells_tasks_by_rows:
            raise UserError(
                f"The sharing scheme {type(sharing).__name__} learns from which rows are labelled for which task, but "
                "with relations a task is computed for the rows of those that read it too. Leave out the relations, or "
                "the adversary."
            )
        self.relations = RelatedTasks(relations, shapes, {task.name: task.outputs for task in tasks})
        self.heads: NamedModules[nn.Module] = NamedModules(
            {task.name: task.make_head(self.relations.shape(task.name).width) for task in tasks}
        )
        self.trunk.head_penalties(dict(self.heads.items()))

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks' names, in order."""
        return tuple(self.tasks)

    def forward(
        self,
        inputs: Mapping[str, Any],
        tasks: Sequence[str] | None = None,
        rows: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Tensor]:
        """The heads' outputs: logits for classes, standardised values for numbers (see `Task.decode`).

        Args:
            inputs: What each encoder reads, by input name.
            tasks: The tasks wanted; None means all.
            rows: For a task, the rows (int64 positions) that it is wanted for; no entry or None means all.

        Returns:
            `[B, outputs]` for each task, B being the number of the rows that were asked for.
        """
        return self._compute(inputs, self.task_names if tasks is None else tasks, rows or {})[0]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of each task that has a label in `batch`.

        A task's stages and head see the rows that are labelled for it, or for a task that reads it, and no others, so
        an unlabelled row changes no gradient of theirs. Some sharing schemes add more to the objective: see
        `objectives`.
        """
        return self.objectives(batch).losses

    def totals(self, batch: Batch) -> dict[str, Tensor]:
        """What the rows of `batch` count together in the mean loss of each task that has a label in it; scalars."""
        return {name: self._total(batch, name) for name in self.task_names if batch.has(name)}

    def objectives(
        self, batch: Batch, totals: Mapping[str, Tensor] | None = None, *, together: bool = False
    ) -> Objectives:
        """The losses, as `losses` gives them, and what the sharing scheme adds.

        Args:
            batch: The rows.
            totals: What each task's sum of losses is divided by, where the rows are a part of those that belong to the
                same mean; None: `totals` of this batch.
            together: Compute tasks of one kind with linear heads over the same features in one call, where that is
                possible and pays: the same numbers, in far less time for many tasks, but a backward pass from the
                loss of one of them then costs as much as from all.
        """
        present = [task for task in self.task_names if batch.has(task)]
        groups = self._groups(batch, present) if together else []
        grouped = {task for group in groups for task in group}
        alone = [task for task in present if task not in grouped]
        rows = {task: batch.labelled[task] for task in alone}
        found: dict[str, Tensor] = {}
        if grouped:
            shared = self.trunk(batch.inputs, present, rows)
            penalties = shared.penalties
            outputs = {task: self.heads[task](shared.features[task].values) for task in alone}
            for group in groups:
                losses = self._losses_of(group, shared.features[group[0]].values, batch, totals)
                found.update(zip(group, losses.unbind(), strict=True))
        else:
            outputs, penalties = self._compute(batch.inputs, present, rows)
        for name in alone:
            found[name] = self._loss(batch, name, outputs[name], None if totals is None else totals[name])
        if self.training and present:
            penalties = {**penalties, **self.trunk.head_penalties(dict(self.heads.items()))}
        return Objectives({name: found[name] for name in present}, penalties)

    def _loss(self, batch: Batch, name: str, output: Tensor, total: Tensor | None) -> Tensor:
        """A task's loss, given its outputs for the rows that are labelled for it."""
        task, labels = self.tasks[name], _labels(batch, name)
        if len(labels) > 1 and total is None:
            total = self._total(batch, name)
        first, *others = (task.loss(output, *each, total) for each in labels)
        return first + others[0] if others else first

    def _total(self, batch: Batch, name: str) -> Tensor:
        first, *others = (self.tasks[name].total(*each) for each in _labels(batch, name))
        return first + others[0] if others else first

    def _groups(self, batch: Batch, tasks: Sequence[str]) -> list[tuple[str, ...]]:
        """The tasks, several each, that are computed together; for all rows, where some lack labels."""
        if self.relations or not self.trunk.one_for_all or batch.partners is not None:
            return []
        known, heads = self.tasks, self.heads  # looking up a module's modules takes as long as all else here
        kinds: dict[Hashable, list[str]] = {}
        for name in tasks:
            kin = known[name].kin
            if kin is not None and is_plain_linear(heads[name]):
                kinds.setdefault(kin, []).append(name)
        return [tuple(names) for names in kinds.values() if len(names) > 1 and self._pays(batch, names)]

    def _pays(self, batch: Batch, names: Sequence[str]) -> bool:
        """Whether what is computed for rows without a label costs less than a call for each task."""
        unlabelled = sum(len(batch) - batch.count(name) for name in names if batch.labelled[name] is not None)
        size = sum(parameter.numel() for parameter in self.heads[names[0]].parameters())
        return unlabelled * size <= _MULTIPLICATIONS_OF_A_CALL * len(names)

    def _losses_of(
        self, group: Sequence[str], features: Tensor, batch: Batch, totals: Mapping[str, Tensor] | None
    ) -> Tensor:
        tasks, heads = self.tasks, self.heads
        return losses_together(
            [tasks[name] for name in group],
            outputs_together([cast("nn.Linear", heads[name]) for name in group], features),
            [batch.targets[name] for name in group],
            [_mask(batch, name) for name in group],
            weights=[batch.weights.get(name) for name in group],
            totals=None if totals is None else [totals[name] for name in group],
        )

    def parts(self) -> list[Part]:
        """All that the model consists of: the trunk, the relations, and last the heads, in the tasks' order.

        The tasks of a part are those whose losses reach it, through relations too.
        """
        return [
            *(replace(part, tasks=self.relations.reach(part.tasks)) for part in self.trunk.parts()),
            *self.relations.parts(),
            *(Part(f"head of {task}", self.relations.head_reach(task), head) for task, head in self.heads.items()),
        ]

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that more than one task's loss can reach: what a balancer balances."""
        return reached_by_several(self.parts())

    def learned(self) -> dict[str, LearnedTable]:
        """What the sharing scheme and the relations have learned about the tasks, by name."""
        return {**self.trunk.learned(), **self.relations.learned()}

    def describe(self) -> Tree:
        """The model as a text tree, for `rich.print`: its parts, the tasks that use each, and how large it is."""
        parts = self.parts()
        ends = dict(zip(self.heads, parts[-len(self.heads) :], strict=True))
        return model_tree(parts[: -len(ends)], self.trunk.stage_names, ends)

    def mermaid(self) -> str:
        """The same as a Mermaid flowchart, for documentation."""
        parts = [*self.trunk.parts(), *self.relations.parts()]
        return mermaid(parts, self.trunk.stage_names, dict(self.heads.items()))

    def _compute(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The heads' outputs for `tasks`, and the penalties; what these tasks read is computed on the way."""
        if not tasks:
            return {}, {}
        if not self.relations:
            shared = self.trunk(inputs, tasks, rows)
            return {task: self.heads[task](shared.features[task].values) for task in tasks}, shared.penalties
        needed = self.relations.needed(tasks, rows)
        shared = self.trunk(inputs, tuple(needed), needed)
        read = self.relations.predictions_read_by(needed)
        known: dict[str, Read] = {}
        outputs = {}
        for task in self.relations.order:
            if task not in needed:
                continue
            features = self.relations(task, shared.features[task], known, needed)
            prediction = None
            if task in read or task in tasks:
                output = self.heads[task](features.values)
                prediction = self.tasks[task].prediction(output) if task in read else None
                if task in tasks:
                    outputs[task] = select_rows(output, within(rows.get(task), needed[task]))
            known[task] = Read(features, prediction)
        return {task: outputs[task] for task in tasks}, shared.penalties


_Labels = tuple[Tensor, Tensor | None, Tensor | None]
"""A task's target, mask and weights."""


def _labels(batch: Batch, task: str) -> list[_Labels]:
    """A task's labels in the rows that are labelled for it; in mixed rows, their own and their partners'."""
    rows, mixed = batch.labelled[task], batch.partners
    if mixed is not None:
        # Either of two mixed rows may lack a label.
        return [_rows(each.targets[task], each.masks[task], each.weights[task], rows) for each in (batch, mixed)]
    mask = _mask(batch, task)
    if rows is not None and mask is not None and _single(mask):
        mask = None  # a row with a label has all of them where there is but one
    return [_rows(batch.targets[task], mask, batch.weights.get(task), rows)]


def _rows(target: Tensor, mask: Tensor | None, weights: Tensor | None, rows: Tensor | None) -> _Labels:
    if rows is None:
        return target, mask, weights
    return target[rows], None if mask is None else mask[rows], None if weights is None else weights[rows]


def _mask(batch: Batch, task: str) -> Tensor | None:
    """Where a task's target has a label; None: everywhere."""
    mask = batch.masks[task]
    return None if batch.labelled[task] is None and _single(mask) else mask


def _single(mask: Tensor) -> bool:
    """Whether there is one entry a row."""
    return mask.ndim == 1 or mask[0].numel() == 1
