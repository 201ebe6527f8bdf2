"""Tasks that need no labels: what they learn comes from an input itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from polytask.labels import TargetSpec, TargetSummary
from polytask.tasks.target import completed, source_names
from polytask.tasks.task import Task


class LabelFreeTask(Task):
    """A task whose answers are made from an input: it reads that input in one or several changed versions.

    The data make the versions (see `polytask.data.view_target`), with random numbers that follow from the seed, the
    epoch and the row; outside of training they are always the same. The model computes the task in a pass of its own
    over them. Every row that has the input counts as labelled. No predictions are made for it.

    Args:
        name: The task's name.
        weight: Multiplies the loss before the balancer sees it.
        metric: The metric that judges the task.
        sources: The data sets whose rows it learns from; None: all.
        auxiliary: Whether it is learned for the sake of the others alone, and choices do not look at it.
    """

    needs_labels = False

    def __init__(
        self, name: str, weight: float, metric: str, sources: str | Sequence[str] | None, *, auxiliary: bool
    ) -> None:
        super().__init__(name, (), weight, metric, sources, auxiliary=auxiliary)

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        return TargetSpec(
            columns=(),
            sources=source_names(parameters.get("sources"), parameters.get("name")),
            input=parameters.get("input"),
            **cls.view_spec(parameters),
        )

    @classmethod
    def view_spec(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What `target_spec` says of the versions: their `kind`, and what that kind has of its own.

        Raises:
            UserError: A parameter is out of range.
        """
        raise NotImplementedError

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        return completed(parameters, summary)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """Nothing: there are no predictions."""
        return {}
