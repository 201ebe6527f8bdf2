"""Gradients without the parts that conflict with the other tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.random_orders import RandomOrders


class PCGrad(GramianBalancer):
    """PCGrad, gradient surgery: take out of each task gradient what conflicts with the others, and add them up.

    From Yu, Kumar, Gupta, Levine, Hausman and Finn, "Gradient Surgery for Multi-Task Learning", NeurIPS 2020. Each
    `g_i` meets the original gradients of the other tasks in a random order, and where the changed `g_i` and `g_j` have
    a negative product it becomes `g_i - (g_i · g_j / |g_j|²) g_j`, its projection onto the plane at right angles to
    `g_j`. All this happens in the coefficients of the K gradients, for which their Gramian is enough.

    The weights are at least 1, and all are 1 where nothing conflicts: the scale is that of the sum of the gradients,
    and above it under conflict. With two tasks the result conflicts with neither; with more, a later projection can
    undo an earlier one, and the order matters. It does nothing about gradients of different lengths, and stops where
    the projections cancel, as for two opposite gradients.

    Args:
        seed: For the random orders.
    """

    paper = "Yu, Kumar, Gupta, Levine, Hausman and Finn, Gradient Surgery for Multi-Task Learning, NeurIPS 2020"
    year = 2020

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.orders = RandomOrders(seed)

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        return projected(gramian, self.orders.draw(len(gramian)))

    def observe(self, gramian: Tensor, weights: Tensor) -> None:
        """See `GramianBalancer.observe`: the next step has other orders."""
        self.orders.advance(len(gramian))


def projected(gramian: Tensor, orders: Tensor) -> Tensor:
    """The weights `[K]` of the sum of the gradients, each projected off the others that it conflicts with.

    Args:
        gramian: `[K, K]`.
        orders: `[K, K - 1]`, for each gradient the numbers of the others, in the order in which it meets them.
    """
    import numpy as np

    known = gramian.detach().cpu().double().numpy()
    rows, lengths = np.arange(len(known)), known.diagonal()
    divisors = np.where(lengths > 0, lengths, 1.0)
    coefficients = np.eye(len(known))
    products = known.copy()  # of the changed gradients, by row, with the original ones
    for others in orders.T.numpy():
        parts = np.minimum(products[rows, others], 0) / divisors[others]
        coefficients[rows, others] -= parts
        products -= parts[:, None] * known[others]
    return torch.from_numpy(coefficients.sum(0)).to(gramian)
