"""The gradients nearest to the others."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.errors import UserError

logger = logging.getLogger("polytask")


class Krum(GramianBalancer):
    """Krum and Multi-Krum: the mean of the gradients that lie nearest to the others.

    From Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent", NeurIPS 2017. The score of task k is the sum of the squared distances from its gradient to the `K - faulty
    - 2` nearest others; the update is the mean of the `select` gradients with the lowest scores. It was made for copies
    of one task, some of them faulty: with different tasks it leaves out the unusual ones for good, so it is for many
    tasks that ought to agree.

    The weights sum to 1. The update's bound on the harm of faulty gradients needs `K > 2 faulty + 2`. In a step with
    fewer than `faulty + 3` tasks no score is defined, and the update is the mean of all.

    TorchJD adds distances, not their squares, which can select others.

    Args:
        faulty: How many gradients may be wrong, at least 0.
        select: How many are averaged: 1 is Krum, more is Multi-Krum (at most `K - faulty - 2` in the paper).

    Raises:
        UserError: A parameter is out of range.
    """

    paper = (
        "Blanchard, El Mhamdi, Guerraoui and Stainer, Machine Learning with Adversaries: Byzantine Tolerant Gradient "
        "Descent, NeurIPS 2017"
    )
    year = 2017

    def __init__(self, faulty: int = 1, select: int = 1, **options: Any) -> None:
        super().__init__(**options)
        if faulty < 0:
            raise UserError(f"krum: faulty is {faulty}, but must be at least 0.")
        if select < 1:
            raise UserError(f"krum: select is {select}, but must be at least 1.")
        self.faulty, self.select = faulty, select

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        if len(tasks) < self.faulty + 3:
            logger.warning(
                "krum: with faulty=%d it needs at least %d tasks; with %d the update is the mean of all gradients.",
                self.faulty,
                self.faulty + 3,
                len(tasks),
            )

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        count = len(gramian)
        if count < self.faulty + 3:
            return torch.full_like(gramian[0], 1 / count)
        squares = gramian.diagonal()
        distances = (squares[:, None] + squares - 2 * gramian).clamp(min=0).fill_diagonal_(math.inf)
        scores = distances.sort(dim=1).values[:, : count - self.faulty - 2].sum(1)
        chosen = scores.argsort(stable=True)[: self.select]
        return torch.zeros_like(scores).index_fill(0, chosen, 1 / len(chosen))
