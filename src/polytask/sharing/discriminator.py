"""Telling tasks apart by their features, and keeping the features from being told apart."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.sharing.sharing import LearnedTable

Schedule = Literal["constant", "dann"]

_KEPT = 0.95
"""How much of the running means of a discriminator's guesses remains after a batch."""


def gradient_reversal(values: Tensor, strength: float) -> Tensor:
    """The values as they are; in the backward pass, their gradient times `-strength`.

    Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17, 2016.
    """
    return _Reversal.apply(values, strength)  # type: ignore[no-any-return]


class _Reversal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, _strength: float) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], _output: Tensor) -> None:
        ctx.strength = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def dann_ramp(progress: float) -> float:
    """`2 / (1 + exp(-10 p)) - 1`: from 0 at the beginning of the training (p = 0) to nearly 1 at its end (p = 1)."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


def discriminator(width: int, tasks: int, layers: int) -> nn.Sequential:
    """A classifier of tasks: features to one score for each task.

    Args:
        width: Number of features.
        tasks: Number of tasks.
        layers: Number of hidden layers, as wide as the features; with none it is linear.
    """
    hidden = [module for _ in range(layers) for module in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, tasks))


class Samples(NamedTuple):
    """What a discriminator is shown in one step.

    Attributes:
        features: `[N, D]`, each task's rows in one block.
        labels: `[N]`, the number of the task that a row belongs to.
        weights: `[N]`, one over the number of this task's rows: weighted sums are sums over tasks of means over rows.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor


class Adversary(nn.Module, ABC):
    """A discriminator that learns to tell tasks apart, and what makes the features tell less.

    Args:
        tasks: All tasks, at least two.
        width: Number of features.
        layers: Number of the discriminator's hidden layers.
        strength: λ, what multiplies the gradient that the features get.
        schedule: Whether λ is the same all the time, or is multiplied by `dann_ramp`.
    """

    guesses: Tensor

    def __init__(self, tasks: Sequence[str], width: int, layers: int, strength: float, schedule: Schedule) -> None:
        super().__init__()
        self.discriminator = discriminator(width, len(tasks), layers)
        self._tasks = tuple(tasks)
        self._number = {task: number for number, task in enumerate(tasks)}
        self._strength = strength
        self._schedule = schedule
        self._progress = 1.0  # an own loop that does not say how far it is gets λ itself
        self.register_buffer("guesses", torch.full((len(tasks), len(tasks)), 1 / len(tasks)))

    @property
    def strength(self) -> float:
        """λ at this point of the training."""
        return self._strength * (dann_ramp(self._progress) if self._schedule == "dann" else 1.0)

    def set_progress(self, progress: float) -> None:
        """See `Trunk.set_progress`."""
        self._progress = progress

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Penalties by name.

        Args:
            features: `[N_k, D]` of the tasks in this step, the rows of each.
        """
        present = {self._number[task]: values for task, values in features.items() if len(values)}
        if not present:
            return {}
        stacked = torch.cat(list(present.values()))
        counts = torch.tensor([len(values) for values in present.values()], device=stacked.device)
        numbers = torch.tensor(list(present), device=stacked.device)
        labels = numbers.repeat_interleave(counts, output_size=len(stacked))
        shares = 1 / counts.to(torch.promote_types(stacked.dtype, torch.float32))
        samples = Samples(stacked, labels, shares.repeat_interleave(counts, output_size=len(stacked)))
        penalties, scores = self.penalties(samples)
        self._note(numbers, samples, scores.detach())
        return penalties

    def _note(self, numbers: Tensor, samples: Samples, scores: Tensor) -> None:
        """Take a step's guesses into the running means of the tasks in it."""
        with torch.no_grad():
            one_hot = F.one_hot(samples.labels, len(self._tasks)) * samples.weights.unsqueeze(1)
            means = one_hot.T @ scores.to(one_hot).softmax(1)
            self.guesses[numbers] = self.guesses[numbers].lerp(means[numbers].to(self.guesses), 1 - _KEPT)

    @abstractmethod
    def penalties(self, samples: Samples) -> tuple[dict[str, Tensor], Tensor]:
        """The penalties by name, and the discriminator's scores `[N, K]`."""

    def learned(self) -> dict[str, LearnedTable]:
        """Which task the discriminator takes a task's features for: running means of its probabilities."""
        return {"discriminator": LearnedTable(self.guesses.detach().clone(), self._tasks, self._tasks)}
