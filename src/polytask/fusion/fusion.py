"""Fusions: how the features of several inputs become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from polytask.encoders import Encoder, Stage
from polytask.encoders.limits import dropout_rate
from polytask.errors import UserError, closest, listing
from polytask.fusion.modalities import ModalityEncoders
from polytask.partial import PartialInput, chosen_rows, row_count

FUSED = "inputs"
"""What the one input of a trunk is called that reads several by name."""


class Fusion(ABC):
    """How the encoders of several inputs become one encoder: a description, which builds it.

    Args:
        drop: Probability of hiding an input from a row that has several, while training.

    Attributes:
        fuses: Whether each input has an encoder, and their features become one.

    Raises:
        UserError: A parameter is out of its limits.
    """

    fuses: ClassVar[bool] = True

    def __init__(self, drop: float) -> None:
        dropout_rate(drop=drop)
        self.drop = drop

    @abstractmethod
    def stages(self, encoders: Mapping[str, Encoder]) -> tuple[ModalityEncoders, dict[str, Stage]]:
        """The first stage, which reads all inputs, and the stages behind it by name, up to one vector a row."""

    def build(self, encoders: Mapping[str, Encoder]) -> FusedEncoder:
        """The encoder that reads all inputs.

        Args:
            encoders: Each input's, by name. Their stages become part of the new encoder.

        Raises:
            UserError: The fusion cannot be applied to these encoders.
        """
        if not encoders:
            raise UserError("A fusion needs at least one encoder.")
        return FusedEncoder(encoders, self)


class FusedEncoder(Encoder):
    """Several encoders and their fusion as one encoder.

    The first stage, `encoders`, reads a mapping of raw inputs by name, in which each may be a `PartialInput`, and has
    all the encoders; those that follow are the fusion's. So every sharing scheme works over it as over any other
    encoder, with the modalities' encoders as its lowest stage.

    Args:
        encoders: Each input's, by name.
        fusion: The fusion.

    Attributes:
        inputs: The inputs' names, in order.
        drop: See `Fusion`.
    """

    def __init__(self, encoders: Mapping[str, Encoder], fusion: Fusion) -> None:
        first, behind = fusion.stages(encoders)
        super().__init__({"encoders": first, **behind})
        self.inputs = tuple(encoders)
        self.drop = fusion.drop
        self.pretrained = any(encoder.pretrained for encoder in encoders.values())

    def take_end(self) -> dict[str, Stage]:
        """See `Encoder.take_end`.

        Raises:
            UserError: Always: what lies before the vectors are positions of all inputs side by side.
        """
        raise UserError(
            f"A task that has an answer at each position reads one input, but the model has {len(self.inputs)}: "
            f"{listing(self.inputs)}. Give it one input, or tasks with one answer a row."
        )


class Inputs:
    """The inputs of a fused encoder: checked, and while training some of them hidden.

    Args:
        names: The inputs' names, in order.
        drop: See `Fusion`.
    """

    def __init__(self, names: tuple[str, ...], drop: float) -> None:
        self.names = names
        self.drop = drop

    def read(self, inputs: Mapping[str, Any], *, training: bool) -> dict[str, Any]:
        """What the first stage reads.

        Inputs are hidden here, before the network, so that all copies of a stage see the same: in a row with m inputs
        each is hidden with the probability `drop`; where that would hide all, the one with the greatest draw stays.

        Args:
            inputs: Raw inputs by name; rows lack those that are not there.
            training: Whether inputs are hidden.

        Raises:
            UserError: A name is not that of an input, the numbers of rows differ, or a row has no input.
        """
        for name in inputs:
            if name not in self.names:
                raise UserError(
                    f"The model has no input '{name}'.{closest(name, self.names)} Its inputs: {listing(self.names)}."
                )
        sizes = {name: row_count(value) for name, value in inputs.items()}
        if len(set(sizes.values())) != 1:
            raise UserError(f"All inputs have the same number of rows, at least one input, but here are {sizes}.")
        hiding = training and self.drop > 0
        if not hiding and any(not isinstance(value, PartialInput) for value in inputs.values()):
            return dict(inputs)
        rows = next(iter(sizes.values()))
        there = torch.zeros(rows, len(inputs), dtype=torch.bool)
        for column, value in enumerate(inputs.values()):
            there[value.rows if isinstance(value, PartialInput) else slice(None), column] = True
        lacking = (~there.any(1)).nonzero()
        if len(lacking):
            raise UserError(f"Row {int(lacking[0])} of the batch has none of the inputs {listing(self.names)}.")
        if not hiding:
            return dict(inputs)
        left = there & ~_hidden(there, self.drop)
        return {
            name: _only(value, there[:, column], left[:, column]) for column, (name, value) in enumerate(inputs.items())
        }


def _hidden(there: Tensor, drop: float) -> Tensor:
    """Which of the inputs that are there, bool `[B, M]`, are hidden; of each row at least one is not."""
    draws = torch.rand(there.shape, device="cpu").masked_fill(~there, -1.0)
    hidden = there & (draws < drop)
    hidden[torch.arange(len(there)), draws.argmax(1)] = False
    return hidden


def _only(value: Any, there: Tensor, left: Tensor) -> Any:
    """An input that some rows have (bool `[B]`), with what some of these have."""
    if torch.equal(there, left):
        return value
    values = value.values if isinstance(value, PartialInput) else value
    rows = left.nonzero().squeeze(1)
    return PartialInput(chosen_rows(values, left[there].nonzero().squeeze(1)), rows, len(there))
