"""Exchanges of features between the tasks' columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polytask.encoders import Features
from polytask.modules import NamedModules
from polytask.sharing.sharing import LearnedTable, select_rows


class Exchange(nn.Module, ABC):
    """Mixes what the columns of all tasks have computed behind a stage.

    Args:
        mixers: By task, in the tasks' order: the parameters of its own mixture.
    """

    def __init__(self, mixers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.mixers: NamedModules[nn.Module] = NamedModules(mixers)

    def forward(
        self, columns: Mapping[str, Features], wanted: Mapping[str, Tensor | None] | None = None
    ) -> dict[str, Features]:
        """Each task's mixture.

        Args:
            columns: The features of all tasks' columns, of the same rows.
            wanted: The tasks that need a mixture, and the rows that each needs it for (None: all). The mixtures are
                then computed one by one, so that none depends on another task's mixer. Without it: all tasks at once.
        """
        if wanted is None:
            return self.mix(self.gather(list(columns.values())), columns)
        whole = self.gather(list(columns.values())) if None in wanted.values() else None
        found: dict[str, Features] = {}
        for task, rows in wanted.items():
            if whole is None or rows is not None:
                gathered = self.gather([select_rows(features, rows) for features in columns.values()])
            else:
                gathered = whole
            found |= self.mix(gathered, {task: select_rows(columns[task], rows)})
        return found

    @abstractmethod
    def gather(self, columns: Sequence[Features]) -> Tensor:
        """The values of all columns side by side."""

    @abstractmethod
    def mix(self, gathered: Tensor, own: Mapping[str, Features]) -> dict[str, Features]:
        """The mixtures of some tasks.

        Args:
            gathered: What `gather` made of all columns.
            own: By task, its own features, whose values the mixture replaces.
        """

    @abstractmethod
    def learned(self) -> LearnedTable:
        """How much of each task's features comes from which task: rows receive, columns give."""

    def penalties(self, columns: Mapping[str, Features]) -> dict[str, Tensor]:
        """What is added to the objective, by name, computed from the columns before they are mixed; nothing here."""
        return {}


class LinearExchange(Exchange):
    """Linear combinations with one weight for each pair of subspaces: `x~_ig = sum_jh a_ig,jh x_jh`.

    The features of each task are cut into subspaces of equal width: task i's features are `[x_i1, ..., x_iG]`.

    Args:
        tasks: All tasks.
        subspaces: G, the number of subspaces; divides the stage's width.
        self_weight: What the weight of a subspace for itself starts from; the others share the rest.
    """

    def __init__(self, tasks: Sequence[str], subspaces: int, self_weight: float) -> None:
        total = len(tasks) * subspaces
        initial = shares(total, self_weight).view(len(tasks), subspaces, total)
        super().__init__({task: _Weights(weights) for task, weights in zip(tasks, initial, strict=True)})
        self.subspaces = subspaces

    def gather(self, columns: Sequence[Features]) -> Tensor:
        """`[K G, B, ..., D / G]`."""
        values = [channels_last(features.values) for features in columns]
        return torch.stack([part for each in values for part in each.chunk(self.subspaces, dim=-1)])

    def mix(self, gathered: Tensor, own: Mapping[str, Features]) -> dict[str, Features]:
        """See `Exchange.mix`: one matrix product for all tasks in `own`."""
        weights = torch.cat([self._weights(task) for task in own])
        product = weights.to(gathered.dtype) @ gathered.flatten(1)
        mixed = product.view(len(own), self.subspaces, *gathered.shape[1:])
        found = {}
        for place, (task, features) in enumerate(own.items()):
            values = mixed[place, 0] if self.subspaces == 1 else torch.cat(list(mixed[place]), dim=-1)
            found[task] = features._replace(values=channels_back(values, features.values))
        return found

    def learned(self) -> LearnedTable:
        """See `Exchange.learned`."""
        values = torch.cat([self._weights(task).detach() for task in self.mixers])
        names = tuple(self.mixers)
        if self.subspaces > 1:
            names = tuple(f"{task} {number}" for task in names for number in range(1, self.subspaces + 1))
        return LearnedTable(values, names, names)

    def _weights(self, task: str) -> Tensor:
        """`[G, K G]`."""
        mixer = self.mixers[task]
        assert isinstance(mixer, _Weights)
        return mixer.weights.view(self.subspaces, -1)


class _Weights(nn.Module):
    """A task's mixing weights, as a vector: weight decay, which is for matrices, would pull them towards zero."""

    def __init__(self, initial: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(initial.flatten().clone())


class ChannelExchange(Exchange):
    """Linear combinations with a weight for each pair of tasks and each channel: `x~_ic = sum_j a_ijc x_jc`.

    Args:
        tasks: All tasks.
        width: The number of channels.
        self_weight: What a task's weights for itself start from; the others share the rest.
    """

    def __init__(self, tasks: Sequence[str], width: int, self_weight: float) -> None:
        initial = shares(len(tasks), self_weight)
        super().__init__({task: _Weights(row.repeat(width, 1).T) for task, row in zip(tasks, initial, strict=True)})

    def gather(self, columns: Sequence[Features]) -> Tensor:
        """`[K, B, ..., C]`."""
        return torch.stack([channels_last(features.values) for features in columns])

    def mix(self, gathered: Tensor, own: Mapping[str, Features]) -> dict[str, Features]:
        """See `Exchange.mix`."""
        between = [1] * (gathered.ndim - 2)
        found = {}
        for task, features in own.items():
            weights = self._weights(task).to(gathered.dtype)
            mixed = (weights.view(len(weights), *between, -1) * gathered).sum(0)
            found[task] = features._replace(values=channels_back(mixed, features.values))
        return found

    def learned(self) -> LearnedTable:
        """See `Exchange.learned`: the mean over the channels."""
        tasks = tuple(self.mixers)
        return LearnedTable(torch.stack([self._weights(task).detach().mean(1) for task in tasks]), tasks, tasks)

    def _weights(self, task: str) -> Tensor:
        """`[K, C]`."""
        mixer = self.mixers[task]
        assert isinstance(mixer, _Weights)
        return mixer.weights.view(len(self.mixers), -1)


def shares(count: int, self_weight: float) -> Tensor:
    """`[count, count]`: `self_weight` for oneself, equal parts of the rest for the others."""
    weights = torch.full((count, count), (1 - self_weight) / max(1, count - 1))
    return weights.fill_diagonal_(self_weight)


def channels_last(values: Tensor) -> Tensor:
    """Values of any kind with the channels at the end."""
    return values.movedim(1, -1) if values.ndim == 4 else values


def channels_back(values: Tensor, like: Tensor) -> Tensor:
    """The inverse of `channels_last`, for values of the same kind as `like`."""
    return values.movedim(-1, 1) if like.ndim == 4 else values
