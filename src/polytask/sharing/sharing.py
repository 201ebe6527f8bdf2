"""Sharing schemes: which parameters the tasks have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from polytask.encoders import Encoder, Features, FeatureShape
from polytask.encoders.encoder import depth_of
from polytask.errors import UserError, listing
from polytask.row_values import RowValues


@dataclass(frozen=True)
class TrunkOutput:
    """What a trunk computes.

    Attributes:
        features: For each task that was asked for, the features that its head reads.
        penalties: Scalars by name that a scheme adds to the objective beside the tasks' losses, their strength
            included; while training only. Balancers do not weigh them.
    """

    features: dict[str, Features]
    penalties: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Some modules of a trunk that the same tasks use; each parameter of a trunk belongs to exactly one part.

    Attributes:
        name: What it is, for people: `layer1`, `gate`, `expert 2 of layer1`.
        tasks: The tasks whose losses reach it; none where only penalties do (a discriminator).
        module: Holds its parameters.
        depth: Which stage of the encoder it is or belongs to, 0 nearest to the input; None where it is none.
        lane: Where several encoders lie side by side, whose it is: what one lane computes is read by no other.
    """

    name: str
    tasks: tuple[str, ...]
    module: nn.Module
    depth: int | None = None
    lane: str = ""


class LearnedTable(NamedTuple):
    """Numbers that a scheme has learned about the tasks, small enough to be looked at.

    Attributes:
        values: `[R, C]`, detached.
        rows: R names.
        columns: C names.
    """

    values: Tensor
    rows: tuple[str, ...]
    columns: tuple[str, ...]


class Trunk(nn.Module, ABC):
    """All that lies between the inputs and the heads, built by a `Sharing`.

    Attributes:
        tells_tasks_by_rows: Whether it learns from which rows are labelled for which task.
    """

    tells_tasks_by_rows: bool = False

    @property
    def one_for_all(self) -> bool:
        """Whether all tasks read the very same features, so that those of all rows cost no more than those of some."""
        return False

    @abstractmethod
    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
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
    def parts(self) -> list[Part]:
        """What the trunk consists of, from the input on."""

    @property
    @abstractmethod
    def stage_names(self) -> tuple[str, ...]:
        """The stages' names, in order."""

    def head_penalties(self, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Penalties on the tasks' heads, as those of a `TrunkOutput`; none by default.

        Asked for at each step of training, and once when a model has made its heads: a scheme that cannot work with
        them says so then.

        Args:
            heads: The tasks' heads, by task.

        Raises:
            UserError: The scheme cannot be applied to these heads.
        """
        return {}

    def learned(self) -> dict[str, LearnedTable]:
        """What the scheme has learned about the tasks (gates, mixing weights, relations), by name; none by default."""
        return {}

    def set_progress(self, progress: float) -> None:
        """Say how much of the training is done, from 0 to 1, before each step, for schemes that change on the way."""

    def stages(self) -> Iterator[tuple[int, int, nn.Module]]:
        """The stages with where they are: `(depth, number of stages, module)`, depth 0 nearest to the input.

        Parameters that belong to no stage (gates, say) are not listed.
        """
        total = len(self.stage_names)
        for part in self.parts():
            if part.depth is not None:
                yield part.depth, total, part.module

    def depth_of(self, stage: str | int | None) -> int:
        """How many stages lie up to and including `stage` (a name, a number, or None for all).

        Raises:
            UserError: There is no such stage.
        """
        return depth_of(stage, self.stage_names)

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that more than one task's loss can reach."""
        return reached_by_several(self.parts())


class EncoderTrunk(Trunk):
    """A trunk over one encoder.

    Args:
        name: The input that the encoder reads.
        encoder: The encoder.
        tasks: All tasks.
        shape: The features that every task's head receives; None: the encoder's.

    Attributes:
        input: The input's name.
        tasks: All tasks.
    """

    def __init__(self, name: str, encoder: Encoder, tasks: Sequence[str], shape: FeatureShape | None = None) -> None:
        super().__init__()
        self.input = name
        self.tasks = tuple(tasks)
        self._names = encoder.stage_names
        self._shape = shape or encoder.shape

    def shape(self, task: str) -> FeatureShape:
        """See `Trunk.shape`."""
        return self._shape

    @property
    def stage_names(self) -> tuple[str, ...]:
        """See `Trunk.stage_names`."""
        return self._names

    def rows_of_only_task(
        self, value: Any, rows: Mapping[str, Tensor | None]
    ) -> tuple[Any, Mapping[str, Tensor | None]]:
        """An input with the rows that are still to be selected from it.

        A task that shares its stages with no other needs no row but its own, from the input on.
        """
        if len(self.tasks) > 1:
            return value, rows
        return select_rows(value, rows.get(self.tasks[0])), {}


class Sharing(ABC):
    """How tasks share a network: a description, which builds the trunk."""

    @abstractmethod
    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> Trunk:
        """The trunk for these encoders and tasks.

        Raises:
            UserError: The scheme cannot be applied to these encoders.
        """


def reached_by_several(parts: Sequence[Part]) -> list[nn.Parameter]:
    """The parameters of the parts that more than one task uses."""
    shared = [part.module for part in parts if len(part.tasks) > 1]
    return list(dict.fromkeys(parameter for module in shared for parameter in module.parameters()))


def only_encoder(encoders: Mapping[str, Encoder]) -> tuple[str, Encoder]:
    """The one input's name and its encoder.

    Raises:
        UserError: There are several.
    """
    if len(encoders) != 1:
        raise UserError(
            f"A sharing scheme is over one encoder, but {len(encoders)} were given: {listing(encoders)}. "
            "Make one of them with polytask.fusion, as MultiTaskModel does."
        )
    ((name, encoder),) = encoders.items()
    return name, encoder


def select_rows(value: Any, rows: Tensor | None) -> Any:
    """Some rows of features, of a raw input or of targets (a tensor, row values, or such by name)."""
    if rows is None:
        return value
    if isinstance(value, Features | RowValues):
        return value.select(rows)
    if isinstance(value, Mapping):
        return {name: select_rows(part, rows) for name, part in value.items()}
    return value[rows]
