"""Transfer learning over stages: freezing, gradual unfreezing, layer-wise learning-rate decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from polytask.model import MultiTaskModel


class Transfer:
    """Decides, epoch by epoch, which stages learn, and how fast each does.

    Gradual unfreezing and decaying rates are those of ULMFiT (Howard and Ruder, ACL 2018).

    Args:
        frozen: The number of stages, from the input on, that do not learn at first.
        unfreeze_every: Let one more stage learn, from the top down, each time this many epochs have passed; None:
            what is frozen stays frozen.
        layer_decay: The learning rate of a stage is this times that of the stage above it; heads have the full rate.
    """

    def __init__(self, frozen: int = 0, unfreeze_every: int | None = None, layer_decay: float | None = None) -> None:
        self.frozen = frozen
        self.unfreeze_every = unfreeze_every
        self.layer_decay = layer_decay

    def frozen_at(self, epoch: int) -> int:
        """The number of stages that do not learn in `epoch` (counted from 0)."""
        if self.unfreeze_every is None:
            return self.frozen
        return max(0, self.frozen - epoch // self.unfreeze_every)

    def apply(self, model: MultiTaskModel, epoch: int) -> None:
        """Freeze and unfreeze for `epoch`. A frozen stage is also in evaluation mode: its statistics stay."""
        if not self.frozen:
            return
        frozen = self.frozen_at(epoch)
        for depth, _, stage in model.trunk.stages():
            learns = depth >= frozen
            stage.requires_grad_(learns)
            stage.train(learns and model.training)

    def parameter_groups(self, model: MultiTaskModel) -> list[dict[str, Any]]:
        """Groups for the optimiser, each with `params` and `lr_scale`."""
        scales: dict[nn.Parameter, float] = {}
        if self.layer_decay is not None:
            for depth, total, stage in model.trunk.stages():
                for parameter in stage.parameters():
                    scales[parameter] = self.layer_decay ** (total - depth)
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in model.parameters():
            groups.setdefault(scales.get(parameter, 1.0), []).append(parameter)
        return [{"params": parameters, "lr_scale": scale} for scale, parameters in groups.items()]
