"""Biases of a task's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polytask.encoders import Stage
from polytask.sharing.task_weights import Change


class Offset(Change):
    """A vector that is added to a bias, at first zero.

    Args:
        bias: The shared bias.
    """

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros_like(bias))

    def changed(self, weight: Tensor) -> Tensor:
        """See `Change.changed`."""
        return weight + self.offset


def biases(stage: Stage) -> dict[str, nn.Parameter]:
    """The biases of a stage's layers by name: its parameters of one dimension that are called so."""
    return {
        name: parameter
        for name, parameter in stage.named_parameters()
        if parameter.ndim == 1 and "bias" in name.rpartition(".")[2]
    }
