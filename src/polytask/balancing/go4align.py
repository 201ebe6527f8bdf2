"""Weights by groups of tasks whose losses are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import PerTask
from polytask.errors import UserError


class GO4Align(LossBalancer):
    """GO4Align: one weight for each group of tasks, from their losses now and before.

    From Shen, Wang, Xiao, Van Noord and Worring, "GO4Align: Group Optimization for Multi-Task Alignment", NeurIPS 2024.
    Each task has an indicator `γ_k = (sum_j L_j / L_k) q_k`: the first factor brings the losses to one scale, the
    second, `q_k`, is the normalised product of `exp(-beta L_k)` over all steps so far, 1/K at the start. The indicators
    are put into groups by K-means, and each task gets the mean of its group as its weight.

    As the indicators are single numbers, the best grouping is found exactly, the same each time; the official code
    takes a local one from a random start. The scale is that of the official code, where equal losses have weights of 1
    at the start; in the paper all weights are 1/K of that. Tasks that are not in a step keep their share, and those
    that are in it divide theirs.

    Losses have to be positive: a task whose loss is 0 or below has an indicator of 0. `q_k` depends on the scale of the
    losses, and in the long run falls without end for a task whose loss stays high.

    Args:
        groups: How many groups there are, at most; the paper has 2 for 3 tasks and 5 for 11. From the number of tasks
            on, each has its own weight.
        beta: How fast the shares follow the losses, at least 0.

    Raises:
        UserError: A parameter is out of range.
    """

    paper = (
        "Shen, Wang, Xiao, Van Noord and Worring, GO4Align: Group Optimization for Multi-Task Alignment, NeurIPS 2024"
    )
    year = 2024

    def __init__(self, groups: int = 2, beta: float = 1e-4, **options: Any) -> None:
        super().__init__(**options)
        if groups < 1:
            raise UserError(f"go4align: groups is {groups}, but must be at least 1.")
        if not 0 <= beta < math.inf:
            raise UserError(f"go4align: beta is {beta}, but must be a number of at least 0.")
        self.groups, self.beta = groups, beta
        # Logarithms, as a share that became 0 could not grow again.
        self.shares = PerTask({"log": 0.0})

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.shares.add(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        values = losses.detach().clamp(min=0)
        before = self.shares.read("log", self.tasks_of(losses), losses.device).to(losses.dtype)
        shares = (before - self.beta * losses.detach()).softmax(0)
        indicators = values.sum() / values.where(values > 0, math.inf) * shares
        return (_group_means(indicators, self.groups) * losses).sum()

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: the shares of those who lose much fall."""
        before = self.shares.read("log", self.present, losses.device)
        after = before - self.beta * losses.to(before.dtype).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        self.shares.write("log", self.present, after - after.logsumexp(0) + before.logsumexp(0))


def _group_means(values: Tensor, groups: int) -> Tensor:
    """`[K]`, for each of K numbers the mean of its group in the best K-means grouping, of least squared error.

    The groups of numbers are intervals, so that dynamic programming finds the best (Wang and Song, "Ckmeans.1d.dp:
    Optimal k-means Clustering in One Dimension by Dynamic Programming", The R Journal 2011).
    """
    count = len(values)
    if groups >= count:
        return values
    order = values.argsort()
    ordered = values[order]
    # Brought to at most 1, so that no square overflows.
    ordered = ordered / ordered[-1:].where(ordered[-1:] > 0, 1.0)
    error = _errors(ordered)
    # For each j the least error of the first j + 1 numbers, and where the last of their groups starts.
    least, starts = error[0], []
    for _ in range(groups - 1):
        least, start = (error[1:] + least[:-1, None]).min(0)
        starts.append(start + 1)
    end = torch.full((1,), count - 1, device=values.device)
    opens = torch.zeros(count, dtype=torch.long, device=values.device)
    for start in reversed(starts):
        first = start.gather(0, end)
        opens = opens.scatter(0, first, 1)
        end = first - 1
    member = (opens.cumsum(0)[:, None] == torch.arange(groups, device=values.device)).to(values.dtype)
    means = (member * values[order][:, None]).sum(0) / member.sum(0)
    return torch.empty_like(values).scatter(0, order, (member * means).sum(1))


def _errors(ordered: Tensor) -> Tensor:
    """`[K, K]`, the squared error about their mean of the numbers i to j; infinite where i > j."""
    # The sum of the squared distances of all pairs, divided by how many numbers there are. Such a sum loses nothing,
    # where a difference of sums of squares would lose small groups beside great numbers.
    pairs = (ordered - ordered[:, None]).square().triu()
    sums = pairs.flip(0).cumsum(0).flip(0).cumsum(1)
    places = torch.arange(1, len(ordered) + 1, dtype=ordered.dtype, device=ordered.device)
    counts = places - places[:, None] + 1
    return torch.where(counts > 0, sums / counts, math.inf)
