"""A trained model on disk: weights and all that is needed to use them, without the training data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from polytask import encoders, fusion, sharing, tasks
from polytask.config import Config
from polytask.data import inputs
from polytask.data.preparation import Preparation
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.shapes import InputShape
from polytask.sharing import relations
from polytask.training.atomic import replacing, write_text

_FORMAT = 1
Component = dict[str, Any]
"""A component's `type` and `parameters`."""


@dataclass(frozen=True)
class ModelDescription:
    """Everything a model consists of but its weights, as plain JSON values.

    Attributes:
        inputs: The inputs' components by name.
        encoders: The encoders' components by input name.
        sharing: The sharing scheme's component.
        tasks: The tasks' components by name, completed from the data.
        preparation: What the inputs and targets learned from the training part.
        relations: The components of the relations between the tasks.
        fusion: The component that makes one of several inputs; None: there is none.
    """

    inputs: Mapping[str, Component]
    encoders: Mapping[str, Component]
    sharing: Component
    tasks: Mapping[str, Component]
    preparation: Mapping[str, Any]
    relations: Sequence[Component] = ()
    fusion: Component | None = None

    @classmethod
    def of(cls, config: Config, preparation: Preparation) -> ModelDescription:
        """The description of a new model for prepared data."""
        completed = {}
        for name, spec in config.tasks.items():
            parameters = tasks.family.get(spec.type).complete(spec.parameters, preparation.summaries[name])
            completed[name] = {"type": spec.type, "parameters": {**parameters, "name": name}}
        return cls(
            inputs={name: _component(spec) for name, spec in config.inputs.items()},
            encoders={name: _component(spec) for name, spec in config.model.encoders.items()},
            sharing=_component(config.model.sharing),
            tasks=completed,
            preparation=preparation.state_dict(),
            relations=[_component(spec) for spec in config.model.relations],
            fusion=None if config.model.fusion is None else _component(config.model.fusion),
        )

    def restore_preparation(self) -> Preparation:
        """The inputs and targets, as they were when the model was trained."""
        fresh = {name: inputs.create(spec["type"], **spec["parameters"]) for name, spec in self.inputs.items()}
        return Preparation.from_state(self.preparation, fresh)

    def build(self, shapes: Mapping[str, InputShape]) -> tuple[MultiTaskModel, ModelDescription]:
        """A model with new (or the library's pretrained) weights.

        Args:
            shapes: What the data say about each input.

        Returns:
            The model, and the description that builds it again to receive saved weights: without any pretrained ones.
        """
        built = {
            name: encoders.create(spec["type"], **spec["parameters"], shape=shapes[name])
            for name, spec in self.encoders.items()
        }
        again = {
            name: {**spec, "parameters": built[name].for_reload(spec["parameters"])}
            for name, spec in self.encoders.items()
        }
        model = MultiTaskModel(
            encoders=built,
            sharing=sharing.create(self.sharing["type"], **self.sharing["parameters"]),
            tasks=[tasks.create(spec["type"], **spec["parameters"]) for spec in self.tasks.values()],
            relations=[relations.create(spec["type"], **spec["parameters"]) for spec in self.relations],
            fusion=None if self.fusion is None else fusion.create(self.fusion["type"], **self.fusion["parameters"]),
        )
        return model, replace(self, encoders=again)


def _component(spec: Any) -> Component:
    return {"type": spec.type, "parameters": dict(spec.parameters)}


def save_description(folder: Path, description: ModelDescription, shapes: Mapping[str, InputShape]) -> None:
    """Write `config.json`, without weights yet."""
    content = {
        "format": _FORMAT,
        **asdict(description),
        "shapes": {name: asdict(shape) for name, shape in shapes.items()},
    }
    write_text(folder / "config.json", json.dumps(content, indent=1) + "\n")


def save_weights(folder: Path, model: MultiTaskModel) -> None:
    """Write `weights.safetensors`."""
    from safetensors.torch import save_model

    with replacing(folder / "weights.safetensors") as temporary:
        save_model(model, str(temporary))


def load_description(folder: Path) -> ModelDescription:
    """Read what `save_description` wrote.

    Raises:
        UserError: There is no model, or a newer version wrote it.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"There is no model in '{folder}': config.json is missing.")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.pop("format") != _FORMAT:
        raise UserError(f"'{path}' was written by another version of polytask; install that version to read it.")
    content.pop("shapes")
    return ModelDescription(**content)


@dataclass(frozen=True)
class TrainedModel:
    """A model with the preparation that its inputs need.

    Attributes:
        model: The network, in evaluation mode.
        preparation: Turns rows of a table into batches for it.
    """

    model: MultiTaskModel
    preparation: Preparation


def load_model(folder: Path) -> TrainedModel:
    """Load a model that a run has saved; the training data are not needed.

    Raises:
        UserError: It is not there, or is incomplete.
    """
    from safetensors.torch import load_model as load_weights

    description = load_description(folder)
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        raise UserError(
            f"'{folder}' has no weights yet: the run has not finished. Go on with: "
            f"polytask train --resume {folder.parent}"
        )
    preparation = description.restore_preparation()
    model, _ = description.build(preparation.shapes)
    load_weights(model, str(weights))
    return TrainedModel(model.eval(), preparation)
