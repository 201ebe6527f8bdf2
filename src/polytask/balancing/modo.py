"""MGDA for noisy gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.independent_batches import IndependentBatches
from polytask.balancing.simplex_weights import SimplexWeights
from polytask.errors import UserError


class MoDo(IndependentBatches):
    """MoDo, multi-objective gradient with double sampling: MGDA with one unbiased step of its weights at a time.

    From Chen, Fernando, Ying and Chen, "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization
    and Conflict-Avoidance", NeurIPS 2023 (JMLR 2024). With the gradients of three independent batches, `λ <- Π(λ - γ
    (J_1 J_2ᵀ + ρ I) λ)` is a step on the simplex towards the least norm of the expected `Jᵀ λ`, and `J_3ᵀ λ` is the
    update. With γ = 0 it is plain training on the mean loss; the greater γ, the more it avoids conflicts, and the more
    the noise moves λ, at the expense of generalisation: that is the paper's trade-off.

    λ starts at 1/K; its sum stays 1, so that the update is about 1/K of a sum. γ has to fit the gradients' size: where
    `γ |g|²` is far above 1, each step of λ goes to a corner. Tasks that are not in a step keep their share of λ. Where
    a gradient is not finite, λ stays. The step needs `J_1 (J_2ᵀ λ)` alone: with `matrix_free` it is the same one, at a
    cost that does not grow with the number of tasks.

    Args:
        gamma: Step size of the weights, at least 0.
        rho: Regularisation of the weights towards equal ones, at least 0.

    Raises:
        UserError: A parameter is out of range.
    """

    paper = (
        "Chen, Fernando, Ying and Chen, Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization "
        "and Conflict-Avoidance, NeurIPS 2023"
    )
    year = 2023

    def __init__(self, gamma: float = 0.001, rho: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        for name, value in (("gamma", gamma), ("rho", rho)):
            if not 0 <= value < math.inf:
                raise UserError(f"modo: {name} is {value}, but must be a number of at least 0.")
        self.gamma, self.rho = gamma, rho
        self.learned = SimplexWeights()

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.learned.add(tasks)

    def update_weights(self, cross: Tensor) -> None:
        """See `IndependentBatches.update_weights`."""
        self.update_weights_by(cross.detach().cpu().double() @ self.learned.weights(self.tasks_of(cross)))

    def update_weights_by(self, product: Tensor) -> None:
        """See `IndependentBatches.update_weights_by`: the same step."""
        from polytask.balancing.solvers.simplex import onto_simplex

        if not product.isfinite().all():
            return
        tasks = self.tasks_of(product)
        weights = self.learned.weights(tasks)
        moved = weights - self.gamma * (product + self.rho * weights)
        self.learned.replace(tasks, torch.from_numpy(onto_simplex(moved.numpy())))

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`: from the state alone."""
        return self.learned.weights(self.tasks_of(gramian)).to(gramian)
