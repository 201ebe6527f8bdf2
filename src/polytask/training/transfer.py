"""Transfer learning over stages: freezing, gradual unfreezing, layer-wise learning-rate decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from polytask.fusion import ModalityEncoders
from polytask.model import MultiTaskModel
from polytask.sharing import EncoderTrunk
from polytask.training.own_training import Rates


class Transfer:
    """Decides, epoch by epoch, which stages learn, and how fast each does.

    Gradual unfreezing and decaying rates are those of ULMFiT (Howard and Ruder, ACL 2018).

    Args:
        frozen: The number of stages, from the input on, that do not learn at first.
        unfreeze_every: Let one more stage learn, from the top down, each time this many epochs have passed; None:
            what is frozen stays frozen.
        layer_decay: The learning rate of a stage is this times that of the stage above it; heads have the full rate.
        spans: Stages that do not learn for some epochs, beside those: their number, from the input on; the first epoch;
            and the epoch in which they learn again, or None.
        tasks: The rates of tasks' own parameters: those that no other task's loss reaches.
        encoders: The rates of the stages of inputs' encoders, by input. Of fused inputs: of what serves one alone.
    """

    def __init__(
        self,
        frozen: int = 0,
        unfreeze_every: int | None = None,
        layer_decay: float | None = None,
        spans: Sequence[tuple[int, int, int | None]] = (),
        *,
        tasks: Mapping[str, Rates] | None = None,
        encoders: Mapping[str, Rates] | None = None,
    ) -> None:
        self.frozen = frozen
        self.unfreeze_every = unfreeze_every
        self.layer_decay = layer_decay
        self.spans = tuple(spans)
        self.tasks = dict(tasks or {})
        self.encoders = dict(encoders or {})

    def frozen_at(self, epoch: int) -> int:
        """The number of stages that do not learn in `epoch` (counted from 0)."""
        frozen = self.frozen
        if self.unfreeze_every is not None:
            frozen = max(0, frozen - epoch // self.unfreeze_every)
        now = (stages for stages, start, end in self.spans if start <= epoch and (end is None or epoch < end))
        return max(frozen, *now, 0)

    def apply(self, model: MultiTaskModel, epoch: int) -> None:
        """Freeze and unfreeze for `epoch`. A frozen stage is also in evaluation mode: its statistics stay."""
        if not self.frozen and not self.spans:
            return
        frozen = self.frozen_at(epoch)
        for depth, _, stage in model.trunk.stages():
            learns = depth >= frozen
            stage.requires_grad_(learns)
            stage.train(learns and model.training)
        for stage in model.end.values():
            learns = frozen < len(model.trunk.stage_names)
            stage.requires_grad_(learns)
            stage.train(learns and model.training)

    def parameter_groups(self, model: MultiTaskModel) -> list[dict[str, Any]]:
        """Groups for the optimiser: each parameter in one of them.

        Each has `params` and `lr_scale`: the scales of the stage, the encoder and the task, multiplied; and, where it
        is another than the optimiser's, `own_decay`, the task's before the encoder's. Those of the own parameters of a
        task that has rates have `task`, so that these can change.
        """
        reached: dict[nn.Parameter, set[str]] = {}
        stages: dict[nn.Parameter, int] = {}
        for part in model.parts():
            for parameter in part.module.parameters():
                reached.setdefault(parameter, set()).update(part.tasks)
                if part.depth is not None:
                    stages[parameter] = part.depth
        inputs = inputs_served(model) if self.encoders else {}
        total = len(model.stage_names)
        groups: dict[tuple[float, float | None, str | None], list[nn.Parameter]] = {}
        for parameter in model.parameters():
            tasks = reached.get(parameter, set())
            task = next(iter(tasks)) if len(tasks) == 1 else None
            own = self.tasks.get(task) if task is not None else None
            scale, decay = 1.0, None
            if parameter in stages:
                scale *= 1.0 if self.layer_decay is None else self.layer_decay ** (total - stages[parameter])
                rates = self.encoders.get(inputs[parameter]) if parameter in inputs else None
                if rates is not None:
                    scale, decay = scale * rates.lr_scale, rates.weight_decay
            if own is not None:
                scale, decay = scale * own.lr_scale, decay if own.weight_decay is None else own.weight_decay
            groups.setdefault((scale, decay, None if own is None else task), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr_scale": scale,
                **({} if decay is None else {"own_decay": decay}),
                **({} if task is None else {"task": task}),
            }
            for (scale, decay, task), parameters in groups.items()
        ]


def inputs_served(model: MultiTaskModel) -> dict[nn.Parameter, str]:
    """The input that the stages' parameters serve; those that serve several are not in it."""
    trunk = model.trunk
    fused = [module for module in trunk.modules() if isinstance(module, ModalityEncoders)]
    if fused:
        return {
            parameter: name
            for stage in fused
            for name in stage.inputs
            for module in stage.of_input(name)
            for parameter in module.parameters()
        }
    if not isinstance(trunk, EncoderTrunk) or model.reader is not None:
        return {}
    stages = [part.module for part in model.parts() if part.depth is not None]
    return {parameter: trunk.input for stage in stages for parameter in stage.parameters()}
