"""Experts: modules of one form, side by side, from which gates mix what a task needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import Encoder, Features, FeatureShape, Stage
from polytask.encoders.initialization import he_init
from polytask.modules import NamedModules
from polytask.sharing.copies import copies
from polytask.sharing.mixing import at_positions, pooled
from polytask.sharing.sharing import Part


class Experts(nn.Module, ABC):
    """Some experts that read the same features."""

    @abstractmethod
    def forward(self, features: Features) -> Features:
        """`[B, ...]` to `[B, E, ...]`: what each of the E experts makes of each row (or of each node: `[N, E, D]`)."""

    @abstractmethod
    def parts(self, names: Sequence[str], tasks: tuple[str, ...], where: str) -> list[Part]:
        """What they consist of.

        Args:
            names: Of each expert.
            tasks: The tasks whose losses reach them.
            where: Comes behind the parts' names.
        """


class MLPExperts(Experts):
    """Multi-layer perceptrons over pooled features, `x -> relu(W x + b)` in each layer, computed together.

    All read the same vector, so their first layer is one linear map; each later layer is one batched product.

    Args:
        width: Features that come in.
        hidden: The widths of an expert's layers.
        count: Number of experts.
    """

    def __init__(self, width: int, hidden: Sequence[int], count: int) -> None:
        super().__init__()
        self.count = count
        self.first = nn.Linear(width, count * hidden[0])
        he_init(self.first)
        self.later = nn.ModuleList(_SideBySide(count, inputs, outputs) for inputs, outputs in pairwise(hidden))

    def forward(self, features: Features) -> Features:
        """See `Experts.forward`."""
        values = F.relu(self.first(pooled(features)))
        values = values.view(len(values), self.count, self.first.out_features // self.count)
        if self.later:
            values = values.transpose(0, 1)
            for layer in self.later:
                values = F.relu(layer(values))
            values = values.transpose(0, 1)
        return Features(values)

    def parts(self, names: Sequence[str], tasks: tuple[str, ...], where: str) -> list[Part]:
        """See `Experts.parts`."""
        name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        return [Part(f"{name}{where}", tasks, self)]


class _SideBySide(nn.Module):
    """Linear maps of the same size, each of its own input: `[E, B, m]` to `[E, B, n]`."""

    def __init__(self, count: int, inputs: int, outputs: int) -> None:
        super().__init__()
        # As `he_init` does; PyTorch would take a stack of matrices for a convolution's kernel.
        self.weight = nn.Parameter(torch.randn(count, inputs, outputs) * (2 / inputs) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(count, 1, outputs))

    def forward(self, values: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, values, self.weight)


class StageExperts(Experts):
    """Copies of some consecutive stages of an encoder.

    Args:
        experts: For each expert its stages by name.
        depth: The depth of the first of these stages.
    """

    def __init__(self, experts: Sequence[NamedModules[Stage]], depth: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self._depth = depth

    def forward(self, features: Features) -> Features:
        """See `Experts.forward`."""
        found = []
        for stages in self.experts:
            flowing = features
            for stage in stages.values():  # type: ignore[operator]
                flowing = stage(flowing)
            found.append(flowing)
        # The maps from before the experts are the same for all of them; those that they add are their own.
        own = [torch.stack(levels, dim=1) for levels in zip(*(each.levels for each in found), strict=True)]
        levels = (*features.levels, *own[len(features.levels) :])
        return found[0]._replace(values=torch.stack([each.values for each in found], dim=1), levels=levels)

    def parts(self, names: Sequence[str], tasks: tuple[str, ...], where: str) -> list[Part]:
        """See `Experts.parts`."""
        return [
            Part(f"{expert} of {stage}{where}", tasks, module, depth)
            for expert, stages in zip(names, self.experts, strict=True)
            for depth, (stage, module) in enumerate(stages.items(), start=self._depth)  # type: ignore[operator]
        ]


class ExpertKind(ABC):
    """What the experts of each level are."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """The number of levels."""

    @abstractmethod
    def width_before(self, level: int) -> int:
        """How many pooled features come into a level, counted from 0."""

    @property
    @abstractmethod
    def shape(self) -> FeatureShape:
        """The shape of what comes out of the last level."""

    @abstractmethod
    def make(self, level: int, counts: Sequence[int]) -> list[Experts]:
        """Groups of so many experts for a level; to be called once for each level."""


class MLPKind(ExpertKind):
    """Multi-layer perceptrons on top of the encoder.

    Args:
        width: The width of the encoder's features.
        hidden: The widths of an expert's layers.
        levels: The number of levels.
    """

    def __init__(self, width: int, hidden: Sequence[int], levels: int) -> None:
        self._width = width
        self._hidden = hidden
        self._levels = levels

    @property
    def levels(self) -> int:
        """See `ExpertKind.levels`."""
        return self._levels

    def width_before(self, level: int) -> int:
        """See `ExpertKind.width_before`."""
        return self._hidden[-1] if level else self._width

    @property
    def shape(self) -> FeatureShape:
        """See `ExpertKind.shape`."""
        return FeatureShape("vector", self._hidden[-1])

    def make(self, level: int, counts: Sequence[int]) -> list[Experts]:
        """See `ExpertKind.make`."""
        return [MLPExperts(self.width_before(level), self._hidden, count) for count in counts]


class StageKind(ExpertKind):
    """Copies of the encoder's own stages; those of a pretrained encoder start alike, others from other numbers.

    Args:
        encoder: The encoder.
        starts: The depth of the first stage of each level; the first is at least 1.
    """

    def __init__(self, encoder: Encoder, starts: Sequence[int]) -> None:
        self._encoder = encoder
        self._bounds = [*starts, len(encoder.stage_names)]

    @property
    def levels(self) -> int:
        """See `ExpertKind.levels`."""
        return len(self._bounds) - 1

    def width_before(self, level: int) -> int:
        """See `ExpertKind.width_before`."""
        return self._encoder.stages[self._encoder.stage_names[self._bounds[level] - 1]].shape.width

    @property
    def shape(self) -> FeatureShape:
        """See `ExpertKind.shape`."""
        return self._encoder.shape

    def make(self, level: int, counts: Sequence[int]) -> list[Experts]:
        """See `ExpertKind.make`."""
        start, stop = self._bounds[level : level + 2]
        fresh = not self._encoder.pretrained
        made = {
            name: iter(copies(self._encoder.stages[name], sum(counts), fresh=fresh))
            for name in self._encoder.stage_names[start:stop]
        }
        return [
            StageExperts([NamedModules({name: next(each) for name, each in made.items()}) for _ in range(count)], start)
            for count in counts
        ]


def mixture(outputs: Features, weights: Tensor) -> Features:
    """What several experts found, weighted and added up.

    Args:
        outputs: `[B, E, ...]`; of nodes `[N, E, D]`. So are levels that are the experts' own; others stay as they are.
        weights: `[B, E]`.
    """
    weights = at_positions(weights, outputs)
    levels = tuple(_mixed(level, weights) if level.ndim == _STACKED else level for level in outputs.levels)
    return outputs._replace(values=_mixed(outputs.values, weights), levels=levels)


def some_experts(outputs: Features, start: int, stop: int) -> Features:
    """Of what several experts found, that of some of them."""
    levels = tuple(level[:, start:stop] if level.ndim == _STACKED else level for level in outputs.levels)
    return outputs._replace(values=outputs.values[:, start:stop], levels=levels)


def mixture_of_all(outputs: Sequence[Features], weights: Tensor) -> Features:
    """One mixture of several groups of experts.

    Args:
        outputs: What each group found, as in `mixture`, for the same rows.
        weights: `[B, E]`, E being the number of all experts together.
    """
    counts = [each.values.shape[1] for each in outputs]
    parts = torch.split(weights, counts, dim=1) if len(outputs) > 1 else (weights,)
    total = mixture(outputs[0], parts[0])
    for output, part in zip(outputs[1:], parts[1:], strict=True):
        more = mixture(output, part)
        levels = tuple(
            level + own if found.ndim == _STACKED else level
            for level, own, found in zip(total.levels, more.levels, output.levels, strict=True)
        )
        total = total._replace(values=total.values + more.values, levels=levels)
    return total


def _mixed(values: Tensor, weights: Tensor) -> Tensor:
    rows, experts = weights.shape
    # For each row a product of a 1 x E matrix and an E x n one: nothing of the size of all outputs is made on the way.
    mixed = torch.bmm(weights.to(values.dtype).view(rows, 1, experts), values.flatten(2))
    return mixed.view(rows, *values.shape[2:])


_STACKED = 5
"""Dimensions of maps of several experts, `[B, E, C, H, W]`."""
