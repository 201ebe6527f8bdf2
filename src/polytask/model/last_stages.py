"""What lies between the trunk and the heads where some tasks read vectors and others the positions before them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from polytask.encoders import Encoder, Stage
from polytask.errors import UserError, listing
from polytask.features import Features, FeatureShape
from polytask.modules import NamedModules
from polytask.sharing import Sharing, Trunk
from polytask.sharing.sharing import only_encoder
from polytask.tasks import Task

_READ = {"vector": "one vector a row", "map": "maps", "tokens": "tokens", "nodes": "the nodes of graphs"}
"""The kinds of features, for messages."""


ENCODERS = {
    "map": ("cnn", "resnet", "vgg", "timm"),
    "tokens": (
        "crnn",
        "speech_model",
        "lstm",
        "tcn",
        "series_transformer",
        "bigru",
        "text_cnn",
        "transformer",
        "auto_model",
    ),
    "nodes": ("gcn", "gin", "gat"),
}
"""Encoders of the library that keep positions, by the kind of features."""


def _hint(task: Task) -> str:
    """What to do where a task finds no positions."""
    return f"Encoders with {_READ[task.reads]}: {listing(ENCODERS[task.reads], limit=20)}."


class LastStages(NamedModules[Stage]):
    """The last stages of an encoder, which give vectors; none where no task reads the positions before them."""

    def at_heads(self, features: Mapping[str, Features], vectors: Collection[str]) -> Mapping[str, Features]:
        """What the heads read: for some tasks these stages come first, once for those with the same features.

        Args:
            features: Of each task, from the trunk.
            vectors: The tasks that read vectors.
        """
        if not len(self):
            return features
        made: dict[int, Features] = {}
        found = dict(features)
        for name, given in features.items():
            if name in vectors:
                if id(given.values) not in made:
                    ended = given
                    for stage in self.values():
                        ended = stage(ended)
                    made[id(given.values)] = ended
                found[name] = made[id(given.values)]
        return found


def take_last_stages(encoders: Mapping[str, Encoder], tasks: Sequence[Task]) -> LastStages:
    """The stages that give vectors, taken off the encoder where tasks read the positions before them.

    Raises:
        UserError: There is nothing before them.
    """
    if all(task.reads == "vector" for task in tasks):
        return LastStages({})
    _, encoder = only_encoder(encoders)
    end = encoder.take_end()
    if not encoder.stage_names:
        task = next(task for task in tasks if task.reads != "vector")
        raise UserError(
            f"The task '{task.name}' reads {_READ[task.reads]}, but the encoder {type(encoder).__name__} has nothing "
            f"but one vector for each row. {_hint(task)}"
        )
    return LastStages(end if any(task.reads == "vector" for task in tasks) else {})


def head_shape(
    task: Task, trunk: Trunk, end: LastStages, scheme: Sharing, encoders: Mapping[str, Encoder]
) -> FeatureShape:
    """What the head of a task reads.

    Args:
        task: The task.
        trunk: The trunk.
        end: The last stages behind it.
        scheme: What built the trunk, for messages.
        encoders: What it was built of, for messages.

    Raises:
        UserError: The network has no features of the kind that the task reads.
    """
    shape = trunk.shape(task.name)
    if task.reads == "vector" and len(end):
        *_, last = end.values()
        return last.shape
    if task.reads == "map" and shape.kind == "tokens" and shape.grid is not None:
        return shape  # patches of an image: its head begins with a pyramid of maps
    if task.reads not in ("vector", shape.kind):
        ((name, encoder),) = encoders.items()
        raise UserError(
            f"The task '{task.name}' reads {_READ[task.reads]}, but the sharing scheme {type(scheme).__name__} "
            f"over the encoder {type(encoder).__name__} of '{name}' gives {_READ[shape.kind]}. "
            f"{_hint(task)}"
        )
    return shape
