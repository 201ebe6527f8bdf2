"""Sharing schemes: which parameters the tasks have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from polytask.encoders import Encoder, Features, FeatureShape


class Trunk(nn.Module, ABC):
    """All that lies between the inputs and the heads, built by a `Sharing`."""

    @abstractmethod
    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> dict[str, Features]:
        """Features for each of `tasks`.

        Args:
            inputs: Raw inputs by name.
            tasks: The tasks that are wanted; nothing is computed for the others.
            rows: For a task, the rows that it needs (int64 positions); None or no entry: all rows.
        """

    @abstractmethod
    def shape(self, task: str) -> FeatureShape:
        """The shape of the features that `task`'s head receives."""

    @abstractmethod
    def stages(self) -> Iterator[tuple[int, int, nn.Module]]:
        """The stages with where they are: `(depth, number of stages, module)`, depth 0 nearest to the input.

        Parameters that belong to no stage (gates, say) are not listed.
        """

    @abstractmethod
    def depth_of(self, stage: str | int | None) -> int:
        """How many stages lie up to and including `stage` (a name, a number, or None for all).

        Raises:
            UserError: There is no such stage.
        """

    @abstractmethod
    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that more than one task's loss can reach."""


class Sharing(ABC):
    """How tasks share a network: a description, which builds the trunk."""

    @abstractmethod
    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> Trunk:
        """The trunk for these encoders and tasks.

        Raises:
            UserError: The scheme cannot be applied to these encoders.
        """
