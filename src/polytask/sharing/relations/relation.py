"""What a relation is: a task that reads other tasks' features or predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from polytask.encoders import Features, FeatureShape
from polytask.errors import UserError, listing
from polytask.sharing.sharing import LearnedTable


class Read(NamedTuple):
    """What a task gives to one that reads it, for the rows of the reader.

    Attributes:
        features: What its head reads, `[B, D]`.
        prediction: What it predicts, `[B, outputs]`: see `Task.prediction`. None where the relation does not ask.
    """

    features: Features
    prediction: Tensor | None


class ReadShape(NamedTuple):
    """What one row of a `Read` looks like.

    Attributes:
        features: The features' shape.
        outputs: The number of values of a prediction.
    """

    features: FeatureShape
    outputs: int


class RelationLayer(nn.Module, ABC):
    """Brings what a task reads into its own features.

    Args:
        shape: Of the features that come out.
    """

    def __init__(self, shape: FeatureShape) -> None:
        super().__init__()
        self.shape = shape

    @abstractmethod
    def forward(self, own: Features, read: Mapping[str, Read]) -> Features:
        """The task's features from its own so far and from what it reads, by task."""

    def learned(self) -> dict[str, LearnedTable]:
        """What the relation has learned about the tasks, by name; none by default."""
        return {}


class Relation(ABC):
    """One task reads others: a description, which builds the layer.

    Args:
        task: The task that reads.
        reads: The task that is read, or several. Their features and predictions are computed before.
        detach: Whether the loss of the task that reads stops here. Else it also trains what the tasks that are read
            consist of, so that they share it: their stages, and for a prediction their heads.

    Raises:
        UserError: No task is read, a task is read twice, or a task reads itself.
    """

    def __init__(self, task: str, reads: str | Sequence[str], detach: bool = False) -> None:
        self.task = task
        self.reads = (reads,) if isinstance(reads, str) else tuple(reads)
        self.detach = detach
        if not self.reads:
            raise UserError(f"The task '{task}' is to read others, but 'reads' is an empty list. Name one or more.")
        if len(set(self.reads)) < len(self.reads):
            raise UserError(f"The task '{task}' reads a task twice: {listing(self.reads)}. Name each once.")
        if task in self.reads:
            raise UserError(
                f"The task '{task}' reads itself, but its prediction is not there before it is made. "
                "Name other tasks in 'reads'."
            )

    @property
    def uses_prediction(self) -> bool:
        """Whether the predictions are read, and not the features alone."""
        return False

    @abstractmethod
    def build(self, own: FeatureShape, read: Mapping[str, ReadShape]) -> RelationLayer:
        """The layer for a task whose features so far have the shape `own`, and the tasks that it reads.

        Raises:
            UserError: The relation cannot be applied to these shapes.
        """
