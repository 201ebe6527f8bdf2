"""Learning a new task on what a finished run has learned."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polytask.config import Config
from polytask.config.component import ComponentSpec
from polytask.config.schema import InitFromConfig
from polytask.data.inputs import Input
from polytask.data.preparation import Preparation, follow_inputs
from polytask.data.table import Table
from polytask.encoders import Stage
from polytask.errors import UserError, at_key, listing
from polytask.labels import TargetSpec
from polytask.model import MultiTaskModel
from polytask.training.differences import differing_tensors, differing_values, first_of
from polytask.training.init_from import mean_of
from polytask.training.run_folder import RunFolder
from polytask.training.saved_model import ModelDescription, load_description, load_model

logger = logging.getLogger("polytask")

_KEY = "model.init_from"

# Which columns are read is told by what the run has learned; the others tell in training only.
_MAY_DIFFER = (
    *("columns", "exclude", "missing", "on_error", "silence"),
    *("flip", "crop", "scale", "rotate", "color", "rand_augment", "jitter", "shift", "gain", "noise"),
)


def adapted(config: Config, root: Path, task: str | None = None) -> Config:
    """The configuration that learns one task, starting from the encoder of a run in which it was not trained.

    Inputs and encoder are the run's, columns included. `training.transfer` says what of the encoder learns, and how
    fast.

    Args:
        config: Has the new task and its data; its other tasks are left out.
        root: The folder of the run.
        task: The new task; None: the only one.

    Raises:
        UserError: There is no such run or task, or the configuration has other inputs.
    """
    description = load_description(RunFolder.open(root).model)
    if task is None:
        if len(config.tasks) > 1:
            raise UserError(f"Which task is the new one? Say --task with one of {listing(config.tasks)}.")
        (task,) = config.tasks
    alone = config.only_task(task).to_mapping()
    if set(alone["inputs"]) != set(description.inputs):
        raise UserError(
            f"The run '{root}' reads the inputs {listing(description.inputs)}, but the configuration has "
            f"{listing(alone['inputs'])}. Give them the run's names: its encoder is to read them."
        )
    for name, component in description.inputs.items():
        own = alone["inputs"][name]
        if own["type"] != component["type"]:
            raise UserError(
                f"The input '{name}' of the run '{root}' is {component['type']}, but that of the configuration is "
                f"{own['type']}."
            )
        alone["inputs"][name] = {"type": own["type"], **component["parameters"]}
    alone["name"] = f"{root.resolve().name}_{task}"
    alone["model"] |= {
        "encoders": {name: {"type": e["type"], **e["parameters"]} for name, e in description.encoders.items()},
        "fusion": None
        if description.fusion is None
        else {"type": description.fusion["type"], **description.fusion["parameters"]},
        "init_from": {"runs": {task: str(root)}, "how": "trunk"},
    }
    return Config.from_mapping(alone)


@dataclass(frozen=True)
class TrunkStart:
    """The encoder of a finished run, and the inputs as it knows them.

    Attributes:
        root: The run folder.
        stages: The weights of each stage, by its name.
        preparation: The run's.
    """

    root: Path
    stages: Mapping[str, Stage]
    preparation: Preparation

    @classmethod
    def read(cls, wanted: InitFromConfig, inputs: Mapping[str, ComponentSpec]) -> TrunkStart:
        """Load the run.

        Args:
            wanted: Names it.
            inputs: What the new model reads.

        Raises:
            UserError: It is not there or not finished, its tasks have no encoder in common, or it reads other inputs.
        """
        with at_key(_KEY):
            if len(set(wanted.runs.values())) > 1:
                raise UserError("how: trunk starts from the encoder of one run, but here are several.")
            root = Path(next(iter(wanted.runs.values())))
            folder = RunFolder.open(root)
            trained, description = load_model(folder.model), load_description(folder.model)
            found = list(differing_values(_settings(description.inputs), _settings(_components(inputs))))
            if found:
                raise UserError(
                    f"the run '{root}' prepares its inputs in another way, so that its weights would mean something "
                    f"else here: {first_of(found)}. Give them the run's settings; polytask train --adapt does."
                )
            return cls(root, _stages(trained.model, description, root), trained.preparation)

    def prepare(
        self,
        table: Table,
        rows: np.ndarray,
        inputs: Mapping[str, Input],
        targets: Mapping[str, TargetSpec],
        reserved: Collection[str] = (),
    ) -> Preparation:
        """The run's inputs beside new targets, which learn from the training part; see `Preparation.fit`.

        Raises:
            UserError: The data do not have what is asked for, or an input would read a target.
        """
        fitted = Preparation.fit(table, rows, {}, targets, reserved)
        answers = {column for spec in targets.values() for column in spec.columns}
        for name, source in inputs.items():
            source.load_state_dict(self.preparation.inputs[name].state_dict())
            read = answers & set(source.columns)
            if read:
                raise UserError(
                    f"the input '{name}' of the run '{self.root}' reads {listing(sorted(read))}, which is the target "
                    "of the new task, so that the network would read the answer."
                )
        follow_inputs(fitted.targets.values(), inputs)
        return Preparation(inputs, fitted.targets, self.preparation.optional)

    def apply(self, model: MultiTaskModel, description: ModelDescription) -> None:
        """Put the weights into a new model: every copy of a stage starts alike, heads start anew.

        Args:
            model: The model, on the CPU.
            description: What builds it again.

        Raises:
            UserError: Its encoder is of another architecture.
        """
        names = model.trunk.stage_names
        for part in model.trunk.parts():
            if not isinstance(part.module, Stage) or part.depth is None:
                continue
            name = names[part.depth]
            there = {name: self.stages[name]} if name in self.stages else {}
            found = differing_tensors(there, {name: part.module})
            if found:
                raise UserError(
                    f"{_KEY}: the encoder of the run '{self.root}' has another architecture, so that its weights do "
                    f"not fit: {first_of(found)}. Give model.encoders the settings of the run's."
                )
            part.module.load_state_dict(self.stages[name].state_dict())


def _stages(model: MultiTaskModel, description: ModelDescription, root: Path) -> dict[str, Stage]:
    """The stages of a run's encoder; where tasks have copies of their own, the mean of these."""
    names = model.trunk.stage_names
    copies: dict[str, list[Stage]] = defaultdict(list)
    alike: Counter[tuple[int, frozenset[str]]] = Counter()
    plain = True
    for part in model.trunk.parts():
        if isinstance(part.module, Stage) and part.depth is not None:
            copies[names[part.depth]].append(part.module)
            alike[part.depth, frozenset(part.tasks)] += 1
        else:
            plain = False
    if not plain or max(alike.values(), default=0) > 1 or set(copies) != set(names):
        raise UserError(
            f"the features of the run '{root}' do not come from one encoder for each group of tasks: its sharing "
            f"scheme is '{description.sharing['type']}'. Schemes that a new task can start from: hard, branching, soft."
        )
    if any(len(stages) > 1 for stages in copies.values()):
        logger.warning("%s: tasks of '%s' have stages of their own: the new one starts from their mean.", _KEY, root)
    found = {}
    for name in names:
        first = copies[name][0]
        first.load_state_dict(mean_of([stage.state_dict() for stage in copies[name]]))
        found[name] = first
    return found


def _components(specs: Mapping[str, ComponentSpec]) -> dict[str, dict[str, Any]]:
    return {name: {"type": spec.type, "parameters": dict(spec.parameters)} for name, spec in specs.items()}


def _settings(components: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What decides which numbers an encoder gets, by input."""
    return {
        f"the input '{name}':": {
            "type": component["type"],
            **{key: value for key, value in component["parameters"].items() if key not in _MAY_DIFFER},
        }
        for name, component in components.items()
    }
