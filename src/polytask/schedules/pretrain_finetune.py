"""First some tasks, then others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from polytask.errors import UserError, closest, listing
from polytask.schedules.orders import Metrics
from polytask.schedules.report import Turn
from polytask.schedules.schedule import Freeze, Schedule


class PretrainFinetune(Schedule):
    """Some tasks together at first, then the others, on what was learned.

    Supplementary training on intermediate tasks (Phang, Févry and Bowman, Sentence Encoders on STILTs, 2018), in one
    run: the same network, optimiser and learning-rate schedule go through both phases.

    Args:
        pretrain: The tasks of the first phase, all in every step.
        epochs: How many epochs it has.
        finetune: The tasks of the second phase, all in every step; a task can be in both. Null: those that are not in
            the first.
        freeze: What does not learn in the second phase: true for the whole encoder, or its stages up to a name or a
            number; null: everything learns.
    """

    def __init__(
        self,
        pretrain: Sequence[str],
        epochs: int,
        finetune: Sequence[str] | None = None,
        freeze: bool | str | int | None = None,
    ) -> None:
        if not pretrain:
            raise UserError("pretrain has no task, but needs at least one.")
        if epochs < 1:
            raise UserError(f"epochs is {epochs}, but must be at least 1: it is the length of the first phase.")
        self.pretrain = tuple(pretrain)
        self.finetune = None if finetune is None else tuple(finetune)
        self.epochs = epochs
        self.freeze = freeze

    @property
    def freezes(self) -> tuple[Freeze, ...]:
        """See `Schedule.freezes`."""
        return () if self.freeze is None or self.freeze is False else (Freeze(self.freeze, self.epochs, None),)

    def check(self, tasks: Metrics, epochs: int) -> None:
        """See `Schedule.check`."""
        for name, given in (("pretrain", self.pretrain), ("finetune", self.finetune or ())):
            for task in given:
                if task not in tasks:
                    raise UserError(
                        f"{name} names no task '{task}'.{closest(task, tasks)} The tasks: {listing(tasks)}."
                    )
        second = self._second(tasks)
        if not second:
            raise UserError(
                "Nothing is left to fine-tune: every task is in pretrain. Name those of the second phase in finetune."
                if self.finetune is None
                else "finetune has no task, but needs at least one; null: those that are not in pretrain."
            )
        missing = [task for task in tasks if task not in (*self.pretrain, *second)]
        if missing:
            raise UserError(f"neither pretrain nor finetune has {listing(missing)}, which would never be trained.")
        if self.epochs >= epochs:
            raise UserError(
                f"epochs is {self.epochs}, but training.epochs is {epochs}: nothing is left for the second phase."
            )

    def pools(self, epoch: int) -> Mapping[Turn, float]:
        """See `Schedule.pools`."""
        return {self._phase(epoch): 1.0}

    def turns(self, epoch: int, steps: int, generator: np.random.Generator) -> Sequence[Turn]:
        """See `Schedule.turns`."""
        return [self._phase(epoch)] * steps

    def _phase(self, epoch: int) -> Turn:
        chosen = self.pretrain if epoch < self.epochs else self._second(self.tasks)
        return tuple(task for task in self.tasks if task in chosen)

    def _second(self, tasks: Metrics | Sequence[str]) -> Sequence[str]:
        return [task for task in tasks if task not in self.pretrain] if self.finetune is None else self.finetune
