"""The worst mixture of the tasks, within bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import PerTask
from polytask.errors import UserError


class BanditMTL(LossBalancer):
    """BanditMTL: `min over the network, max over p, sum_k p_k L_k`, with p near the uniform distribution.

    From Mao, Wang, Liu, Lin and Hu, "BanditMTL: Bandit-based Multi-task Learning for Text Classification", ACL 2021,
    where it bounds the variance between the tasks' losses. p is a distribution over the K tasks with `sum_k p_k log(K
    p_k) <= rho`. In each step it moves by mirror ascent: `p_k` is multiplied with `exp(eta L_k)`, and where that leaves
    the bounds, it is raised to the power `1 / (1 + λ)`, with the least λ that brings it back.

    p starts at 1/K; its sum stays 1, so that the gradient is 1/K of that of the sum of the losses. The weights depend
    on the scale of the losses: with losses that cannot be compared, p goes to the one with the greatest numbers
    (`log_losses` helps). Within wide bounds (from `log K` on there are none) the hardest task gets all the weight in
    the end. Tasks that are not in a step keep their share, and those that are in it divide theirs.

    Args:
        rho: The radius of the bounds, above 0.
        eta: Learning rate of p, above 0.

    Raises:
        UserError: A parameter is out of range.
    """

    paper = "Mao, Wang, Liu, Lin and Hu, BanditMTL: Bandit-based Multi-task Learning for Text Classification, ACL 2021"
    year = 2021

    def __init__(self, rho: float = 1.2, eta: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        for name, value in (("rho", rho), ("eta", eta)):
            if not 0 < value < math.inf:
                raise UserError(f"bandit_mtl: {name} is {value}, but must be a number above 0.")
        self.rho, self.eta = rho, eta
        # Logarithms, as a share that became 0 could not grow again.
        self.shares = PerTask({"log": 0.0})

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.shares.add(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        shares = self.shares.read("log", self.tasks_of(losses), losses.device).to(losses.dtype).softmax(0)
        return (shares * losses).sum()

    def observe(self, losses: Tensor) -> None:
        """See `LossBalancer.observe`: move the distribution towards the tasks with great losses."""
        before = self.shares.read("log", self.present, losses.device)
        gains = self.eta * losses.to(before.dtype).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        after = before + gains
        after = after - after.max()
        after = (self._power(after) * after).log_softmax(0)
        self.shares.write("log", self.present, after + before.logsumexp(0))

    def _power(self, logits: Tensor) -> Tensor:
        """`[1]`, the greatest power, up to 1, that keeps `softmax(power * logits)` within the bounds.

        The divergence grows with the power. Each round divides what is left by 64, all at once rather than one half
        after the other, which would be many small operations.
        """
        low, high = logits.new_zeros(1), logits.new_ones(1)
        marks = torch.linspace(0, 1, 65, dtype=logits.dtype, device=logits.device)
        for _ in range(6):
            powers = low + (high - low) * marks
            log_p = (powers[:, None] * logits).log_softmax(1)
            divergence = (log_p.exp() * log_p).sum(1) + math.log(len(logits))
            inside = (divergence <= self.rho).sum(0, keepdim=True)
            low, high = powers.gather(0, (inside - 1).clamp(min=0)), powers.gather(0, inside.clamp(max=64))
        return low
