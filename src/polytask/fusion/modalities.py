"""The first stage of a fused encoder: every modality's encoder, over the rows that have the modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, Stage
from polytask.encoders.token_pooling import masked_mean
from polytask.features import Features, FeatureShape
from polytask.modules import NamedModules
from polytask.partial import PartialInput, row_count


class Present(NamedTuple):
    """The features of the rows that have a modality.

    Attributes:
        features: Of these rows.
        rows: int64 `[n]`, on the CPU: which rows they are; None: all.
    """

    features: Features
    rows: Tensor | None


class ModalityEncoders(Stage):
    """Raw inputs by name to features of one kind.

    Each encoder computes the rows that have its input and no others.

    Args:
        chains: For each input, the stages that read it, in order.
        shape: The shape of the output.
    """

    module: NamedModules[NamedModules[Stage]]

    def __init__(self, chains: Mapping[str, Mapping[str, Stage]], shape: FeatureShape) -> None:
        super().__init__(NamedModules({name: NamedModules(chain) for name, chain in chains.items()}), shape)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs' names, in order."""
        return tuple(self.module)

    def of_input(self, name: str) -> list[nn.Module]:
        """The modules that serve one input alone."""
        return [self.module[name]]

    def present(self, inputs: Mapping[str, Any]) -> dict[str, Present]:
        """The features of each modality that any row has."""
        found = {}
        for name, chain in self.module.items():
            given = inputs.get(name)
            rows = None
            if isinstance(given, PartialInput):
                given, rows = given.values, None if len(given.rows) == given.size else given.rows
            if given is None:
                continue
            for stage in chain.values():
                given = stage(given)
            found[name] = Present(given, rows)
        return found


class VectorsSideBySide(ModalityEncoders):
    """The encoders' vectors side by side, a learned vector in place of each that a row lacks: `vector`.

    Args:
        encoders: Each input's encoder.
    """

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        widths = {name: encoder.shape.width for name, encoder in encoders.items()}
        chains = {name: dict(encoder.stages.items()) for name, encoder in encoders.items()}
        super().__init__(chains, FeatureShape("vector", sum(widths.values())))
        self.missing = NamedModules({name: LearnedVector(width) for name, width in widths.items()})

    def of_input(self, name: str) -> list[nn.Module]:
        """See `ModalityEncoders.of_input`."""
        return [*super().of_input(name), self.missing[name]]

    def forward(self, inputs: Mapping[str, Any]) -> Features:
        """Raw inputs of B rows to `[B, sum of widths]`."""
        size = row_count(inputs)
        found = self.present(inputs)
        parts = []
        for name, missing in self.missing.items():
            if name not in found:
                parts.append(missing().expand(size, -1))
                continue
            vectors, rows = vectors_of(found[name].features), found[name].rows
            if rows is not None:
                blank = missing().to(vectors.dtype).expand(size, -1)
                vectors = blank.index_copy(0, rows.to(vectors.device, non_blocking=True), vectors)
            parts.append(vectors)
        return Features(torch.cat(parts, dim=1))


class LearnedVector(nn.Module):
    """A vector of its own, 0 at first.

    Args:
        width: Its length.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width))

    def forward(self) -> Tensor:
        """`[width]`."""
        return self.vector


def vectors_of(features: Features) -> Tensor:
    """One vector a row, `[B, D]`: the mean over positions or nodes where there are several."""
    values, mask = features.values, features.mask
    if features.graphs is not None:
        return features.graphs.mean(values)
    if values.ndim == 4:
        return values.mean((2, 3)) if mask is None else masked_mean(values.mean(2).transpose(1, 2), mask)
    if values.ndim == 3:
        return values.mean(1) if mask is None else masked_mean(values, mask)
    return values


def body(encoder: Encoder) -> dict[str, Stage]:
    """The stages of an encoder up to the last that has positions or nodes; all where none has."""
    stages = dict(encoder.stages.items())
    names = list(stages)
    while names and stages[names[-1]].shape.kind == "vector":
        names.pop()
    return {name: stages[name] for name in names} if names else stages


def presence(found: Sequence[Present], size: int) -> Tensor:
    """Which rows have which modality, bool `[B, M]`, on the CPU."""
    there = torch.zeros(size, len(found), dtype=torch.bool, device="cpu")
    for column, each in enumerate(found):
        there[slice(None) if each.rows is None else each.rows, column] = True
    return there
