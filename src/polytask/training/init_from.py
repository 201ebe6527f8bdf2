"""Starting from finished runs: train the tasks separately, splice the networks, then train together."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polytask.config.schema import InitFromConfig
from polytask.data.preparation import Preparation
from polytask.encoders import Stage
from polytask.errors import UserError, at_key, closest, listing
from polytask.model import MultiTaskModel
from polytask.sharing import Trunk
from polytask.sharing.stacked import StackedTrunk
from polytask.training.differences import differing_tensors, differing_values, first_of
from polytask.training.run_folder import RunFolder
from polytask.training.saved_model import ModelDescription, load_description, load_model

logger = logging.getLogger("polytask")

_KEY = "model.init_from"

# Settings of an input that tell in what it learned from the data, or in training only.
_TOLD_BY_STATE = ("columns", "exclude", "min_count", "missing", "size", "normalize", "vocabulary")
_IN_TRAINING_ONLY = ("flip", "crop", "color", "rand_augment", "on_error")


@dataclass(frozen=True)
class Origin:
    """The network of one task in a finished run.

    Attributes:
        root: The run folder.
        stages: Its encoder's stages by name, in order.
        head: The task's head.
        encoders: The components of its encoders.
        target: What the run learned about the task's target.
    """

    root: Path
    stages: Mapping[str, nn.Module]
    head: nn.Module
    encoders: Mapping[str, Any]
    target: Mapping[str, Any]


@dataclass(frozen=True)
class Start:
    """The weights that a new model starts from.

    Attributes:
        origins: By task.
        how: See `InitFromConfig.how`.
        targets: What the new preparation learned about the tasks' targets.
    """

    origins: Mapping[str, Origin]
    how: Literal["average", "stack", "trunk"]
    targets: Mapping[str, Any]

    @classmethod
    def read(cls, wanted: InitFromConfig, description: ModelDescription, preparation: Preparation) -> Start:
        """Load the runs, and make sure that they read their inputs as the new model will.

        Args:
            wanted: The runs, by task.
            description: The new model's.
            preparation: Fitted on the new training part.

        Raises:
            UserError: A task is not the model's or not the run's, a run is not there or not finished, its network is
                not an encoder for each task, or its inputs are prepared in another way.
        """
        here = _what_inputsmean_of(description, preparation)
        origins = {}
        for task, path in wanted.runs.items():
            with at_key(f"{_KEY}.runs.{task}"):
                if task not in description.tasks:
                    raise UserError(
                        f"the model has no task '{task}'.{closest(task, description.tasks)} "
                        f"Its tasks: {listing(description.tasks)}."
                    )
                origins[task] = _read(Path(path), task, here, _read_classes_of(preparation))
        return cls(origins, wanted.how, _plain(preparation.state_dict())["targets"])

    def apply(self, model: MultiTaskModel, description: ModelDescription) -> None:
        """Put the weights into a new model.

        Args:
            model: The model, on the CPU.
            description: What builds it again, as `ModelDescription.build` returns it.

        Raises:
            UserError: The runs' encoders are of another architecture, or the sharing scheme has no place for them.
        """
        scheme = description.sharing["type"]
        with at_key(_KEY):
            if self.how == "stack":
                self._stack(model.trunk, scheme)
            else:
                self._average(model.trunk, scheme)
        for task, origin in self.origins.items():
            settings = list(differing_values(_weighty(origin.encoders), _weighty(description.encoders)))
            if settings:
                logger.warning(
                    "%s.runs.%s: the tensors fit, but settings of the encoders differ, so that the weights may mean "
                    "something else here: %s.",
                    _KEY,
                    task,
                    first_of(settings),
                )
            self._take_head(task, origin, model.heads[task])

    def _average(self, trunk: Trunk, scheme: str) -> None:
        """Each copy of a stage becomes the mean of the runs' of its tasks, or of all runs where these have none."""
        copies = [
            (part.depth, part.tasks, part.module)
            for part in trunk.parts()
            if isinstance(part.module, Stage) and part.depth is not None
        ]
        groups = Counter((depth, frozenset(tasks)) for depth, tasks, _ in copies)
        of_task = {
            task: {trunk.stage_names[depth]: stage for depth, tasks, stage in copies if task in tasks}
            for task in self.origins
        }
        if max(groups.values(), default=0) > 1 or any(len(own) < len(trunk.stage_names) for own in of_task.values()):
            raise UserError(
                "how: average needs a sharing scheme in which each group of tasks has one copy of a stage, as in hard, "
                f"branching and soft. '{scheme}' has several, which would start alike, or none. Take one of those "
                "schemes, or put the runs' encoders side by side with how: stack."
            )
        for task, own in of_task.items():
            self._check_architecture(task, own)
        for depth, tasks, stage in copies:
            name = trunk.stage_names[depth]
            chosen = [self.origins[task] for task in tasks if task in self.origins] or list(self.origins.values())
            stage.load_state_dict(mean_of([origin.stages[name].state_dict() for origin in chosen]))

    def _stack(self, trunk: Trunk, scheme: str) -> None:
        """Each expert becomes the encoder of its task's run."""
        if not isinstance(trunk, StackedTrunk):
            raise UserError(
                "how: stack puts the runs' encoders side by side, which is the sharing scheme 'stacked_experts', but "
                f"model.sharing is '{scheme}'. Leave it out, or set its type to stacked_experts."
            )
        without = [task for task in self.origins if task not in trunk.experts]
        if without:
            raise UserError(
                f"there are runs for {listing(without)}, but model.sharing has experts for {listing(trunk.experts)} "
                "only. Name all of them there, or leave 'experts' out."
            )
        for task in self.origins:
            self._check_architecture(task, dict(trunk.experts[task].items()))
        for task, origin in self.origins.items():
            for name, stage in trunk.experts[task].items():
                stage.load_state_dict(origin.stages[name].state_dict())

    def _check_architecture(self, task: str, stages: Mapping[str, nn.Module]) -> None:
        origin = self.origins[task]
        found = differing_tensors(origin.stages, stages)
        if found:
            raise UserError(
                f"runs.{task}: the encoder of the run '{origin.root}' has another architecture, so that its weights "
                f"do not fit. Of its tensors {len(found)} differ: {first_of(found)}. Give model.encoders the settings "
                "of the run's, and take a sharing scheme that leaves the encoder's stages as they are."
            )

    def _take_head(self, task: str, origin: Origin, head: nn.Module) -> None:
        """Start from the run's head too, where it fits and means the same."""
        reasons = differing_tensors({"head": origin.head}, {"head": head})
        reasons += differing_values(_meaning(origin.target), _meaning(self.targets[task]))
        if reasons:
            logger.warning("%s.runs.%s: the task's head starts anew: %s.", _KEY, task, first_of(reasons))
        else:
            head.load_state_dict(origin.head.state_dict())


def _read(root: Path, task: str, here: Mapping[str, Any], classes_here: Mapping[str, Sequence[str]]) -> Origin:
    """The network of a task in a run, checked against what the inputs mean in the new model."""
    folder = RunFolder.open(root)
    trained = load_model(folder.model)
    description = load_description(folder.model)
    model = trained.model
    if task not in model.task_names:
        raise UserError(
            f"the run '{root}' has no task '{task}'.{closest(task, model.task_names)} "
            f"Its tasks: {listing(model.task_names)}."
        )
    found = list(differing_values(_what_inputsmean_of(description, trained.preparation), here))
    for name, tasks in _read_classes_of(trained.preparation).items():
        others = classes_here.get(name, tasks)
        if tasks != others and any(each.startswith(f"the input '{name}': weights table:") for each in found):
            raise UserError(
                f"the input '{name}' weighs words by the weights log_ratio, which follow from the classes of "
                f"classification tasks: from those of {listing(tasks)} there and from those of {listing(others)} here, "
                "so that the run's weights would mean something else. Start from a run with these tasks, or set "
                "`weights: [idf]` in both."
            )
    if found:
        raise UserError(
            f"the run '{root}' prepares its inputs in another way, so that its weights would mean something else here: "
            f"{first_of(found)}. Train it on the same rows (data and data.split) with the same inputs."
        )
    reads = [relation for relation in description.relations if relation["parameters"]["task"] == task]
    if reads:
        raise UserError(
            f"in the run '{root}' '{task}' reads other tasks (model.relations), so that its head needs more than one "
            "encoder. Start from a run of this task alone."
        )
    own = [part for part in model.trunk.parts() if task in part.tasks]
    names = model.trunk.stage_names
    if [part.depth for part in own] != list(range(len(names))) or not all(isinstance(p.module, Stage) for p in own):
        raise UserError(
            f"in the run '{root}' the features of '{task}' do not come from one encoder alone: its sharing scheme is "
            f"'{description.sharing['type']}'. Start from a run of this task alone, with hard sharing."
        )
    stages = {name: part.module for name, part in zip(names, own, strict=True)}
    target = _plain(trained.preparation.targets[task].state_dict())
    return Origin(root, stages, model.heads[task], description.encoders, target)


def _what_inputsmean_of(description: ModelDescription, preparation: Preparation) -> dict[str, Any]:
    """All that decides which numbers an encoder gets for a row, by input."""
    ignored = (*_TOLD_BY_STATE, *_IN_TRAINING_ONLY)
    found = {}
    for name, source in preparation.inputs.items():
        component = description.inputs[name]
        settings = {key: value for key, value in component["parameters"].items() if key not in ignored}
        learned = {**source.state_dict(), "shape": asdict(source.shape)}
        if "weights" in learned:
            learned["weights"] = {"of": settings["weights"], **learned["weights"]}
        found[f"the input '{name}':"] = {"type": component["type"], **settings, **learned}
    return _plain(found)


def _read_classes_of(preparation: Preparation) -> dict[str, list[str]]:
    """The inputs that have learned from the classes of tasks, each with these tasks."""
    tasks = [task for task, target in preparation.targets.items() if target.spec.kind == "category"]
    return {name: tasks for name, each in preparation.inputs.items() if "log_ratio" in getattr(each, "weights", ())}


def _weighty(encoders: Mapping[str, Any]) -> dict[str, Any]:
    """The encoders' settings that may change what weights mean: all but probabilities of dropping values."""
    return _plain(
        {
            f"encoder '{name}':": {
                "type": spec["type"],
                **{key: value for key, value in spec["parameters"].items() if "dropout" not in key},
            }
            for name, spec in encoders.items()
        }
    )


def _meaning(target: Mapping[str, Any]) -> dict[str, Any]:
    """What a head's outputs stand for."""
    return {"kind": target["spec"]["kind"], **{key: target["summary"][key] for key in ("classes", "mean", "std")}}


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from a JSON file."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def mean_of(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor; of counts and positions, which are whole numbers, the first."""
    return {
        name: torch.stack([state[name] for state in states]).double().mean(0).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }
