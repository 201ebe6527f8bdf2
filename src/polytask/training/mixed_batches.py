"""A step's batches where some tasks want mixed rows: those see them, and all others see the rows as they are."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from polytask.config import Config
from polytask.config.component import ComponentSpec
from polytask.data.batch import Batch
from polytask.data.mixing import Mixing
from polytask.errors import UserError, at_key
from polytask.model import MultiTaskModel
from polytask.shapes import InputShape


class MixedBatches:
    """Divides batches by what their tasks want.

    Of a batch become: for each mixing, one with its tasks and with rows mixed among those that are labelled for any of
    them, and one with all other tasks, whose rows are as they were. A task is in one of these alone, and a row is in
    those that it has labels for, so that the step's means stay what they are, and the cost is one more computation for
    the rows that are in several.

    Args:
        mixings: For each task that wants mixed rows, how; tasks with the very same object share a pass.
        seed: What is drawn follows from this, the step and the tasks.
        parts: Independent batches that the balancer divides a batch into; see `Mixing.mix`.
    """

    def __init__(self, mixings: Mapping[str, Mixing], *, seed: int, parts: int = 1) -> None:
        self._groups: list[tuple[Mixing, tuple[str, ...]]] = []
        for mixing in {id(mixing): mixing for mixing in mixings.values()}.values():
            self._groups.append((mixing, tuple(task for task, wanted in mixings.items() if wanted is mixing)))
        self._seed = seed
        self._parts = parts

    def of(self, batches: Sequence[Batch], step: int) -> list[Batch]:
        """What a step is computed on.

        Args:
            batches: The batches of the step.
            step: Its number, counted from 0 through the whole training.
        """
        if not self._groups:
            return list(batches)
        return [part for number, batch in enumerate(batches) for part in self._divided(batch, step, number)]

    def _divided(self, batch: Batch, step: int, number: int) -> list[Batch]:
        """The batches that take the place of one, the `number`-th of its step; there is always one."""
        mixed: list[Batch] = []
        done: set[str] = set()
        for mixing, tasks in self._groups:
            draw = np.random.default_rng([self._seed % 2**63, step, number, zlib.crc32("\n".join(tasks).encode())])
            present = [task for task in tasks if batch.has(task)]
            if mixing.applies(draw) and present:
                mixed.append(mixing.mix(batch.only(present), draw, parts=self._parts))
                done.update(present)
        if not mixed:
            return [batch]
        others = [task for task in batch.labelled if task not in done]
        return [*mixed, batch.only(others)] if any(batch.has(task) for task in others) else mixed


def mixings_of(config: Config) -> dict[str, Mixing]:
    """How single tasks want their rows mixed, from `training.tasks`; equal settings are the very same object."""
    made: list[tuple[ComponentSpec, Mixing]] = []
    found = {}
    for name, own in config.training.tasks.items():
        if own.mixing is not None:
            known = next((mixing for spec, mixing in made if spec == own.mixing), None)
            found[name] = own.mixing.create() if known is None else known
            made.append((own.mixing, found[name]))
    return found


def check_mixings(config: Config, inputs: Mapping[str, InputShape], model: MultiTaskModel) -> None:
    """Refuse what cannot be mixed, as far as the configuration alone does not show it.

    Args:
        config: What is asked for.
        inputs: The inputs' shapes, by name.
        model: The network.

    Raises:
        UserError: An input cannot be mixed, or the sharing scheme cannot do with mixed rows.
    """
    for name, mixing in mixings_of(config).items():
        with at_key(f"training.tasks.{name}.mixing"):
            mixing.check(inputs)
            if model.trunk.tells_tasks_by_rows:
                raise UserError(
                    f"the sharing scheme '{config.model.sharing.type}' learns to tell from a row which tasks it is "
                    "labelled for, and would tell it by the mixing. Leave out the mixing, or the adversary."
                )
