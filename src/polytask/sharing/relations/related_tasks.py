"""The relations of a model's tasks, between the trunk and the heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from polytask.encoders import Features, FeatureShape
from polytask.errors import UserError
from polytask.modules import NamedModules
from polytask.sharing.relations.order import order_of, problems_of
from polytask.sharing.relations.relation import Read, ReadShape, Relation, RelationLayer
from polytask.sharing.rows import union_of, within
from polytask.sharing.sharing import LearnedTable, Part, select_rows

Rows = Mapping[str, Tensor | None]


class RelatedTasks(nn.Module):
    """What tasks read of each other.

    Several relations of one task are applied in the order given. A task's features, for those that read them, are what
    its head reads: its own relations are in them.

    Args:
        relations: None, one or several.
        shapes: The shape of each task's features as they come from the trunk, by task.
        outputs: The number of values of each task's prediction.

    Attributes:
        order: The tasks, each after those that it reads.

    Raises:
        UserError: A relation names a task that does not exist, the tasks read each other in a circle, or a relation
            cannot be applied to its tasks.
    """

    def __init__(
        self, relations: Sequence[Relation], shapes: Mapping[str, FeatureShape], outputs: Mapping[str, int]
    ) -> None:
        super().__init__()
        tasks = tuple(shapes)
        for number, parameter, message in problems_of(relations, tasks):
            raise UserError(f"relations[{number}]{f'.{parameter}' if parameter else ''}: {message}")
        self.order = order_of(relations, tasks)
        self._tasks = tasks
        self._relations = tuple(relations)
        self._numbers = {
            task: [number for number, relation in enumerate(relations) if relation.task == task] for task in tasks
        }
        self._shapes = dict(shapes)
        layers: dict[int, RelationLayer] = {}
        for task in self.order:
            for number in self._numbers[task]:
                relation = relations[number]
                read = {name: ReadShape(self._shapes[name], outputs[name]) for name in relation.reads}
                layers[number] = relation.build(self._shapes[task], read)
                self._shapes[task] = layers[number].shape
        self.layers = NamedModules({str(number): layers[number] for number in range(len(relations))})
        self._reach = self._reached_tasks()

    def __len__(self) -> int:
        return len(self._relations)

    def shape(self, task: str) -> FeatureShape:
        """The shape of the features that `task`'s head reads."""
        return self._shapes[task]

    def needed(self, tasks: Iterable[str], rows: Rows) -> dict[str, Tensor | None]:
        """The tasks that have to be computed for `tasks`, in the model's order, with the rows that each is needed for.

        Args:
            tasks: The tasks that are wanted.
            rows: The rows that each is wanted for; no entry or None means all.
        """
        found = {task: rows.get(task) for task in tasks}
        for task in reversed(self.order):
            if task in found:
                for source in self._sources(task):
                    sets = [found[task]] if source not in found else [found[source], found[task]]
                    found[source] = union_of(sets)
        return {task: found[task] for task in self._tasks if task in found}

    def predictions_read_by(self, tasks: Iterable[str]) -> set[str]:
        """The tasks whose predictions these tasks read."""
        readers = set(tasks)
        used = (each for each in self._relations if each.uses_prediction and each.task in readers)
        return {source for relation in used for source in relation.reads}

    def forward(self, task: str, features: Features, known: Mapping[str, Read], rows: Rows) -> Features:
        """What the head of `task` reads.

        Args:
            task: The task.
            features: Its features from the trunk.
            known: What is known of the tasks that it reads, for their own rows.
            rows: The rows that all of these were computed for, as `needed` gave them.
        """
        for number in self._numbers[task]:
            relation = self._relations[number]
            read = {}
            for source in relation.reads:
                places = within(rows[task], rows[source])
                values, prediction = known[source]
                values = select_rows(values, places)
                prediction = None if prediction is None else select_rows(prediction, places)
                if relation.detach:
                    values = values._replace(values=values.values.detach())
                    prediction = None if prediction is None else prediction.detach()
                read[source] = Read(values, prediction if relation.uses_prediction else None)
            features = self.layers[str(number)](features, read)
        return features

    def reach(self, tasks: Iterable[str]) -> tuple[str, ...]:
        """The tasks whose losses reach what the features of `tasks` depend on: these, and those that read them."""
        found = {reader for task in tasks for reader in self._reach[task]}
        return tuple(task for task in self._tasks if task in found)

    def head_reach(self, task: str) -> tuple[str, ...]:
        """The tasks whose losses reach the head of `task`: the task itself, and those that read its prediction."""
        readers = [
            relation.task
            for relation in self._relations
            if task in relation.reads and relation.uses_prediction and not relation.detach
        ]
        found = {task, *self.reach(readers)}
        return tuple(name for name in self._tasks if name in found)

    def parts(self) -> list[Part]:
        """The relations that have parameters, with the tasks whose losses reach them."""
        found = []
        for relation, layer in zip(self._relations, self.layers.values(), strict=True):
            if any(True for _ in layer.parameters()):
                name = f"what {relation.task} reads of {', '.join(relation.reads)}"
                found.append(Part(name, self.reach([relation.task]), layer))
        return found

    def learned(self) -> dict[str, LearnedTable]:
        """What the relations have learned about the tasks, by name."""
        found: dict[str, LearnedTable] = {}
        for number, layer in enumerate(self.layers.values()):
            for name, table in layer.learned().items():
                found[name if name not in found else f"{name} (relation {number + 1})"] = table
        return found

    def _sources(self, task: str) -> list[str]:
        return [source for number in self._numbers[task] for source in self._relations[number].reads]

    def _reached_tasks(self) -> dict[str, set[str]]:
        reach: dict[str, set[str]] = {}
        for task in reversed(self.order):
            readers = [each.task for each in self._relations if task in each.reads and not each.detach]
            reach[task] = {task}.union(*(reach[reader] for reader in readers))
        return reach
