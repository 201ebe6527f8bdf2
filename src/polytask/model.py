"""The multi-task model: encoders, sharing, heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from polytask.data.batch import Batch
from polytask.encoders import Encoder
from polytask.errors import UserError, listing
from polytask.modules import NamedModules
from polytask.sharing import Hard, Sharing, TrunkOutput
from polytask.tasks import Task


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
    """

    def __init__(self, encoders: Mapping[str, Encoder], tasks: Sequence[Task], sharing: Sharing | None = None) -> None:
        super().__init__()
        names = [task.name for task in tasks]
        if not names:
            raise UserError("A model needs at least one task.")
        if len(set(names)) != len(names):
            raise UserError(f"Two tasks have the same name: {listing(names)}.")
        self.trunk = (sharing or Hard()).build(encoders, names)
        self.tasks: NamedModules[Task] = NamedModules({task.name: task for task in tasks})
        self.heads: NamedModules[nn.Module] = NamedModules(
            {task.name: task.make_head(self.trunk.shape(task.name).width) for task in tasks}
        )

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
        wanted = self.task_names if tasks is None else tasks
        return self._outputs(self.trunk(inputs, wanted, rows or {}), wanted)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of each task that has a label in `batch`.

        A task's stages and head see the rows that are labelled for it and no others, so an unlabelled row changes no
        gradient of theirs. Some sharing schemes add more to the objective: see `objectives`.
        """
        return self.objectives(batch).losses

    def objectives(self, batch: Batch) -> Objectives:
        """The losses, as `losses` gives them, and what the sharing scheme adds."""
        present = [task for task in self.task_names if batch.has(task)]
        shared = self.trunk(batch.inputs, present, batch.labelled)
        outputs = self._outputs(shared, present)
        losses = {}
        for name in present:
            task, rows = self.tasks[name], batch.labelled[name]
            target, mask = batch.targets[name], batch.masks[name]
            if rows is not None:
                target, mask = target[rows], mask[rows]
            losses[name] = task.loss(outputs[name], target, mask)
        return Objectives(losses, shared.penalties)

    def _outputs(self, shared: TrunkOutput, tasks: Sequence[str]) -> dict[str, Tensor]:
        return {task: self.heads[task](shared.features[task].values) for task in tasks}
