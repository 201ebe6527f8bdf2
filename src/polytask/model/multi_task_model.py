"""The multi-task model: encoders, sharing, heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from polytask.data.batch import Batch
from polytask.encoders import Encoder
from polytask.encoders.simple_pyramid import SimplePyramid
from polytask.errors import UserError, listing
from polytask.features import Features
from polytask.fusion import FUSED, Concat, Fusion, Inputs, joined_outputs, own_rows
from polytask.model.batch_labels import labels_of
from polytask.model.last_stages import head_shape, take_last_stages
from polytask.model.task_losses import TaskLosses
from polytask.modules import NamedModules
from polytask.partial import joined_rows, whole_rows
from polytask.sharing import Hard, LearnedTable, Part, Sharing
from polytask.sharing.description import mermaid, model_tree
from polytask.sharing.relations import Read, RelatedTasks, Relation
from polytask.sharing.rows import within
from polytask.sharing.sharing import only_encoder, reached_by_several, select_rows
from polytask.tasks import Task

if TYPE_CHECKING:
    from rich.tree import Tree


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
        fusion: How the inputs' features become one; None: `Concat()` where there are several inputs.

    Attributes:
        reader: The name of the encoder that reads all inputs, of which each row has one; None: each has its own.

    Raises:
        UserError: There is no task, two have the same name, or the sharing scheme or a relation cannot be applied.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        tasks: Sequence[Task],
        sharing: Sharing | None = None,
        relations: Sequence[Relation] = (),
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__()
        names = [task.name for task in tasks]
        if not names:
            raise UserError("A model needs at least one task.")
        if len(set(names)) != len(names):
            raise UserError(f"Two tasks have the same name: {listing(names)}.")
        scheme = sharing or Hard()
        self._several: Inputs | None = None
        self.reader = only_encoder(encoders)[0] if fusion is not None and not fusion.fuses else None
        if self.reader is None and (fusion is not None or len(encoders) > 1):
            fused = (fusion or Concat()).build(encoders)
            self._several = Inputs(fused.inputs, fused.drop)
            encoders = {FUSED: fused}
        end = take_last_stages(encoders, tasks)
        self.trunk = scheme.build(encoders, names)
        self.tasks: NamedModules[Task] = NamedModules({task.name: task for task in tasks})
        self.end = end
        self._vectors = frozenset(task.name for task in tasks if task.reads == "vector")
        shapes = {task.name: head_shape(task, self.trunk, end, scheme, encoders) for task in tasks}
        pyramids = {
            task.name: SimplePyramid(shapes[task.name])
            for task in tasks
            if task.reads == "map" and shapes[task.name].kind == "tokens"
        }
        shapes |= {name: pyramid.shape for name, pyramid in pyramids.items()}
        if relations and self.trunk.tells_tasks_by_rows:
            raise UserError(
                f"The sharing scheme {type(sharing).__name__} learns from which rows are labelled for which task, but "
                "with relations a task is computed for the rows of those that read it too. Leave out the relations, or "
                "the adversary."
            )
        positions = [name for name in names if name not in self._vectors]
        if relations and positions:
            raise UserError(
                f"Relations are between tasks that give one answer a row, but {listing(positions)} "
                "give one at each position. Leave out the relations."
            )
        self.relations = RelatedTasks(relations, shapes, {task.name: task.outputs for task in tasks})
        heads = {task.name: task.make_head(self.relations.shape(task.name)) for task in tasks}
        heads |= {name: nn.Sequential(pyramid, heads[name]) for name, pyramid in pyramids.items()}
        self.heads: NamedModules[nn.Module] = NamedModules(heads)
        self.trunk.head_penalties(dict(self.heads.items()))
        self._losses = TaskLosses(dict(self.tasks.items()), heads)
        self._check_views(scheme)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks' names, in order."""
        return tuple(self.tasks)

    @property
    def predicted(self) -> tuple[str, ...]:
        """The tasks that predictions are made for: all but those that need no labels; these, where there are no others.

        Such tasks are there for what they teach, and their answers mean nothing of inputs as they are.
        """
        return tuple(name for name, task in self.tasks.items() if task.needs_labels) or self.task_names

    def forward(
        self,
        inputs: Mapping[str, Any],
        tasks: Sequence[str] | None = None,
        rows: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Any]:
        """The heads' outputs: logits for classes, standardised values for numbers (see `Task.decode`).

        Args:
            inputs: What each encoder reads, by input name; with several, one can be a `PartialInput`, or lack.
            tasks: The tasks wanted; None means all that are `predicted`.
            rows: For a task, the rows (int64 positions) that it is wanted for; no entry or None means all.

        Returns:
            For each task `[B, outputs]`, or what else its head gives; B is the number of the rows that were asked for.
        """
        return self._compute(self._read(inputs), self.predicted if tasks is None else tasks, rows or {})[0]

    def answers(self, batch: Batch) -> dict[str, Any]:
        """The heads' outputs for the rows of `batch` that are labelled, for each task that has some.

        Tasks that need no labels read their own versions of the rows.
        """
        present = [task for task in self.task_names if batch.has(task)]
        plain = [task for task in present if task not in batch.views]
        outputs = self._compute(self._read(batch.inputs), plain, batch.labelled)[0] if plain else {}
        return {task: outputs[task] if task in outputs else self._viewed(batch, task)[0] for task in present}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of each task that has a label in `batch`.

        A task's stages and head see the rows that are labelled for it, or for a task that reads it, and no others, so
        an unlabelled row changes no gradient of theirs. Some sharing schemes add more to the objective: see
        `objectives`.
        """
        return self.objectives(batch).losses

    def totals(self, batch: Batch) -> dict[str, Tensor]:
        """What the rows of `batch` count together in the mean loss of each task that has a label in it; scalars."""
        return {name: self._losses.total(batch, name) for name in self.task_names if batch.has(name)}

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
        plain = [task for task in present if task not in batch.views]
        groups = self._losses.groups(batch, plain) if together and self._alike(batch) else []
        grouped = {task for group in groups for task in group}
        alone = [task for task in plain if task not in grouped]
        rows = {task: batch.labelled[task] for task in alone}
        found: dict[str, Tensor] = {}
        penalties: dict[str, Tensor] = {}
        outputs: dict[str, Any] = {}
        if grouped:
            shared = self.trunk(self._read(batch.inputs), plain, rows)
            penalties = shared.penalties
            features = self.end.at_heads(shared.features, self._vectors)
            outputs = {task: self._output(task, features[task]) for task in alone}
            for group in groups:
                losses = self._losses.of_group(group, features[group[0]].values, batch, totals)
                found.update(zip(group, losses.unbind(), strict=True))
        elif plain:
            outputs, penalties = self._compute(self._read(batch.inputs), plain, rows)
        for name in present:
            if name in batch.views:
                outputs[name], added = self._viewed(batch, name)
                penalties = {**added, **penalties}  # what is added to the objective counts once
        for name in outputs:
            found[name] = self._losses.loss(batch, name, outputs[name], None if totals is None else totals[name])
        if self.training and present:
            penalties = {**penalties, **self.trunk.head_penalties(dict(self.heads.items()))}
        return Objectives({name: found[name] for name in present}, penalties)

    def _viewed(self, batch: Batch, name: str) -> tuple[Any, dict[str, Tensor]]:
        """A task's outputs for its own versions of the rows that are labelled for it, and the penalties.

        Of several versions they are side by side, `[B, V, outputs]`. All are computed in one pass, the task's own.
        """
        rows, versions = batch.labelled[name], batch.views[name]
        read = [{source: whole_rows(value, rows) for source, value in each.items()} for each in versions]
        inputs = joined_rows(read) if len(read) > 1 else read[0]
        if self.reader is not None:
            (value,) = inputs.values()
            inputs = {self.reader: value}
        shared = self.trunk(self._read(inputs), (name,), {name: None})
        features = self.end.at_heads(shared.features, self._vectors)[name]
        if len(versions) == 1:
            (target, mask, _), *_ = labels_of(batch, name)
            return self._output(name, self.tasks[name].at_labels(features, target, mask)), shared.penalties
        output = self._output(name, features)
        return output.unflatten(0, (len(versions), -1)).transpose(0, 1), shared.penalties

    def _check_views(self, scheme: Sharing) -> None:
        """Refuse what tasks that read versions of their own cannot be in.

        Raises:
            UserError: They are related to other tasks, or the sharing scheme learns from rows of several tasks at once.
        """
        viewing = [name for name, task in self.tasks.items() if not task.needs_labels]
        if viewing and self.trunk.tells_tasks_by_rows:
            raise UserError(
                f"The sharing scheme {type(scheme).__name__} learns to tell from a row which tasks it is labelled for, "
                f"but {listing(viewing)} need no labels: their rows are changed, and would be told by that. Leave them "
                "out, or the adversary."
            )
        for name in self.tasks:
            related = self.relations.needed([name], {})
            apart = [other for other in related if other in viewing]
            if len(related) > 1 and apart:
                raise UserError(
                    "Tasks that need no labels read changed inputs of their own, so that other tasks cannot read them, "
                    f"nor they other tasks: take {listing(apart)} out of the relations."
                )

    def parts(self) -> list[Part]:
        """All that the model consists of: the trunk, the relations, and last the heads, in the tasks' order.

        The tasks of a part are those whose losses reach it, through relations too.
        """
        return [
            *(replace(part, tasks=self.relations.reach(part.tasks)) for part in self.trunk_parts()),
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
        return model_tree(parts[: -len(ends)], self.stage_names, ends)

    def mermaid(self) -> str:
        """The same as a Mermaid flowchart, for documentation."""
        parts = [*self.trunk_parts(), *self.relations.parts()]
        return mermaid(parts, self.stage_names, dict(self.heads.items()))

    def trunk_parts(self) -> list[Part]:
        """The parts of the trunk, and the last stages behind it."""
        vectors = tuple(name for name in self.tasks if name in self._vectors)
        depth = len(self.trunk.stage_names)
        end = (Part(name, vectors, stage, depth + number) for number, (name, stage) in enumerate(self.end.items()))
        return [*self.trunk.parts(), *end]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of the trunk's stages and of the last ones behind it, in order."""
        return (*self.trunk.stage_names, *self.end)

    def _output(self, task: str, features: Features) -> Any:
        return self.heads[task](features.values if task in self._vectors else features)

    def _alike(self, batch: Batch) -> bool:
        """Whether all tasks read the same features of a batch."""
        one = self.trunk.one_for_all and self.reader is None
        return one and not self.relations and batch.partners is None

    def _read(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the trunk reads: one input, which has all where they are fused."""
        if self._several is None:
            return inputs
        return {FUSED: self._several.read(inputs, training=self.training)}

    def _compute(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The heads' outputs for `tasks`, and the penalties; what these tasks read is computed on the way."""
        if not tasks:
            return {}, {}
        if self.reader is None:
            return self._computed(inputs, tasks, rows)
        parts = own_rows(inputs)
        if len(parts) == 1:
            return self._computed({self.reader: parts[0].values}, tasks, rows)
        found: dict[str, list[tuple[Any, Tensor]]] = {task: [] for task in tasks}
        penalties: dict[str, Tensor] = {}
        for part in parts:
            asked = {task: here for task in tasks if (here := part.among(rows.get(task))) is not None}
            own = {task: here for task, (here, _) in asked.items()}
            outputs, added = self._computed({self.reader: part.values}, tuple(asked), own)
            for task, output in outputs.items():
                found[task].append((output, asked[task][1]))
            for name, penalty in added.items():
                penalties[name] = penalties.get(name, 0) + penalty / len(parts)
        return {task: joined_outputs(each, task) for task, each in found.items()}, penalties

    def _computed(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `_compute` gives, of inputs as the trunk reads them."""
        if not tasks:
            return {}, {}
        if not self.relations:
            shared = self.trunk(inputs, tasks, rows)
            features = self.end.at_heads(shared.features, self._vectors)
            return {task: self._output(task, features[task]) for task in tasks}, shared.penalties
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
