"""Encoders as ordered stages: the protocol that every sharing scheme builds on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import nn

from polytask.errors import UserError, closest, listing
from polytask.features import Features, FeatureShape
from polytask.modules import NamedModules

Modality = Literal["tabular", "image", "text", "graph", "audio", "sequence"]


class Stage(nn.Module):
    """One step of an encoder: features in, features out. The first stage reads the raw input instead.

    Args:
        module: Computes the values from the values; the mask and the graphs pass by. Subclasses that need them, or read
            a raw input, override `forward`.
        shape: The shape of the output.

    Attributes:
        keeps_input: Whether what comes in is added to `Features.levels`.
    """

    def __init__(self, module: nn.Module, shape: FeatureShape) -> None:
        super().__init__()
        self.module = module
        self.shape = shape
        self.keeps_input = False

    def forward(self, features: Any) -> Features:
        """`Features` (or, in the first stage, the raw input) to `Features`."""
        given: Features = features if isinstance(features, Features) else Features(features)
        levels = (*given.levels, given.values) if self.keeps_input else given.levels
        return given._replace(values=self.module(given.values), levels=levels)


class Encoder(nn.Module):
    """Turns one modality into a vector per row through an ordered list of stages.

    Args:
        stages: The stages by name, in order, from the raw input to a `vector`.
    """

    modality: ClassVar[Modality]
    pretrained: bool = False
    """Whether the weights are worth more than random ones, so that copies should start from them."""

    def __init__(self, stages: Mapping[str, Stage]) -> None:
        super().__init__()
        self.stages: NamedModules[Stage] = NamedModules(stages)

    def for_reload(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that build this encoder again to receive saved weights.

        Encoders that start from pretrained weights override it, so that a saved model loads without them: nothing is
        downloaded, and no file of the training machine is read. The values are JSON-able.

        Args:
            parameters: Those that built this encoder, the shape of its input left out.
        """
        return dict(parameters)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages' names, in order."""
        return tuple(self.stages)

    @property
    def shape(self) -> FeatureShape:
        """The shape of the last stage's output."""
        return self.stages[self.stage_names[-1]].shape

    def depth_of(self, stage: str | int | None) -> int:
        """How many stages lie up to and including `stage`; see the function of this name."""
        return depth_of(stage, self.stage_names)

    def take_end(self) -> dict[str, Stage]:
        """Take off the last stages that give vectors (pooling and what follows it), so that positions are left.

        Where maps are left, the stages that coarsen them keep what they read: see `Features.levels`.

        Returns:
            The stages taken off, in order.
        """
        names = list(self.stages)
        body = len(names)
        while body and self.stages[names[body - 1]].shape.kind == "vector":
            body -= 1
        end = {name: self.stages[name] for name in names[body:]}
        stages = [self.stages[name] for name in names[:body]]
        self.stages = NamedModules(dict(zip(names[:body], stages, strict=True)))
        levels: tuple[FeatureShape, ...] = ()
        for before, stage in pairwise(stages):
            if before.shape.kind == stage.shape.kind == "map" and before.shape.stride < stage.shape.stride:
                stage.keeps_input = True
                levels = (*levels, before.shape)
            stage.shape = replace(stage.shape, levels=levels)
        return end

    def forward(self, inputs: Any) -> Features:
        """The raw input through all stages."""
        features = inputs
        for name in self.stages:
            features = self.stages[name](features)
        return features  # type: ignore[no-any-return]


def depth_of(stage: str | int | None, names: Sequence[str]) -> int:
    """How many stages lie up to and including `stage`.

    Args:
        stage: A stage's name, or a number of stages (negative counts from the end); None means all.
        names: The stages' names, in order.

    Raises:
        UserError: There is no such stage.
    """
    if stage is None:
        return len(names)
    if isinstance(stage, str):
        if stage in names:
            return names.index(stage) + 1
        raise UserError(
            f"The encoder has no stage '{stage}'.{closest(stage, names)} "
            f"Its stages, in order: {listing(names, limit=60)}."
        )
    depth = stage + len(names) if stage < 0 else stage
    if not 0 <= depth <= len(names):
        raise UserError(f"{stage} stages were asked for, but the encoder has {len(names)}: {listing(names, limit=60)}.")
    return depth
