"""One trunk that computes something else for each task, from some stage on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from polytask.encoders import Encoder, Features
from polytask.errors import UserError
from polytask.sharing.sharing import EncoderTrunk, TrunkOutput, select_rows

SomeStages = Literal["all"] | Sequence[str]


class ConditionedTrunk(EncoderTrunk):
    """An encoder that all tasks share, with something small in it that depends on the task.

    The stages before the first such place are computed once, for all rows. From there on features differ from task to
    task, so that each task runs through the rest by itself, with the rows that it needs.

    Args:
        name: The input.
        encoder: Its stages are shared.
        tasks: All tasks.
        together: How many stages, from the input on, are computed once for all tasks.
    """

    def __init__(self, name: str, encoder: Encoder, tasks: Sequence[str], together: int) -> None:
        super().__init__(name, encoder, tasks)
        self.shared = encoder.stages
        self._together = together

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`."""
        if not tasks:
            return TrunkOutput({})
        values, rows = self.rows_of_only_task(inputs[self.input], rows)
        names = self.stage_names
        for name in names[: self._together]:
            values = self.shared[name](values)
        found = {}
        for task in tasks:
            own = select_rows(values, rows.get(task))
            for depth, name in enumerate(names):
                if depth >= self._together:
                    own = self.run(task, name, own)
                if depth >= self._together - 1:
                    own = self.adapt(task, name, own)
            found[task] = own
        return TrunkOutput(found)

    def run(self, task: str, stage: str, features: Any) -> Features:
        """One stage, for one task."""
        found: Features = self.shared[stage](features)
        return found

    def adapt(self, task: str, stage: str, features: Features) -> Features:
        """What happens to a task's features behind a stage: nothing, unless a scheme says so."""
        return features


def check_some_stages(scheme: str, parameter: str, stages: SomeStages) -> None:
    """Refuse what is neither `"all"` nor a list of names.

    Raises:
        UserError: It is a single name, or the list is empty.
    """
    if stages == "all":
        return
    if isinstance(stages, str):
        raise UserError(f"{scheme}: {parameter} must be 'all' or a list of stages, such as [{stages}], not '{stages}'.")
    if not stages:
        raise UserError(f"{scheme}: {parameter} names no stage. Name at least one, or say 'all'.")


def chosen_stages(encoder: Encoder, stages: SomeStages) -> tuple[str, ...]:
    """The names of the chosen stages, in the encoder's order.

    Raises:
        UserError: There is no stage of a given name.
    """
    names = encoder.stage_names
    if stages == "all":
        return names
    depths = {encoder.depth_of(stage) - 1 for stage in stages}
    return tuple(name for depth, name in enumerate(names) if depth in depths)
