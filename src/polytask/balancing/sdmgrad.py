"""MGDA for noisy gradients, towards a direction of one's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.adam import TaskAdam
from polytask.balancing.independent_batches import IndependentBatches
from polytask.balancing.simplex_weights import SimplexWeights
from polytask.balancing.task_values import TaskValues
from polytask.errors import UserError


class SDMGrad(IndependentBatches):
    """SDMGrad: a common descent direction near a wanted one, with weights that follow unbiased gradients.

    From Xiao, Ban and Ji, "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms",
    NeurIPS 2023. With the gradients `J_1`, `J_2`, `J_3` of three independent batches and the wanted mixture p (1/K for
    every task), the weights w on the simplex go some steps down `|J (w + λ p)|² / 2`, whose gradient is estimated
    without bias by `J_1 J_2ᵀ (w + λ p)`: `w <- Π(w - lr · that)`. The update is `J_3ᵀ (w + λ p) / (1 + λ)`. With λ = 0
    it is a stochastic MGDA; with λ towards infinity it becomes the gradient of the wanted mixture.

    The weights of the gradients sum to 1: an update of about 1/K of a sum. They start at 1/K and go on from where they
    were; tasks that are not in a step keep their share. As in the authors' code, though not in the paper's algorithm,
    the inner steps have momentum, anew at each step of training, and `J_1 J_2ᵀ` is divided by the square of the
    gradients' mean length, `mean_k sqrt((J_1 J_2ᵀ)_kk)` with negative numbers as 0, so that one learning rate fits all
    scales. Where that is 0, or a gradient is not finite, the weights stay. In one place of that code all three batches
    share their memory, so that the gradients are those of one batch; the paper's independent batches are meant.

    Args:
        lambda_: How much the wanted mixture counts, at least 0; the authors take 0.3 to 0.6, and more for long runs.
        lr: Learning rate of the weights.
        momentum: Momentum of their steps, from 0 to below 1.
        steps: How many of them in a step of training.
        preference: The wanted mixture, above 0, of any sum, by task name or in order; None: all alike.
        matrix_free_lr: With `matrix_free`, the learning rate of the weights, in logarithms: they take one step of Adam
            at each step of training, as with other methods; `lr`, `momentum` and `steps` are not used.

    Raises:
        UserError: A parameter is out of range.
    """

    paper = (
        "Xiao, Ban and Ji, Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms, "
        "NeurIPS 2023"
    )
    year = 2023

    def __init__(
        self,
        lambda_: float = 0.3,
        lr: float = 10.0,
        momentum: float = 0.5,
        steps: int = 20,
        preference: Mapping[str, float] | Sequence[float] | None = None,
        *,
        matrix_free_lr: float = 0.025,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not 0 < matrix_free_lr < math.inf:
            raise UserError(f"sdmgrad: matrix_free_lr is {matrix_free_lr}, but must be a number above 0.")
        if not 0 <= lambda_ < math.inf:
            raise UserError(f"sdmgrad: lambda_ is {lambda_}, but must be a number of at least 0.")
        if not 0 < lr < math.inf:
            raise UserError(f"sdmgrad: lr is {lr}, but must be a number above 0.")
        if not 0 <= momentum < 1:
            raise UserError(f"sdmgrad: momentum is {momentum}, but must be from 0 to below 1.")
        if steps < 1:
            raise UserError(f"sdmgrad: steps is {steps}, but must be at least 1.")
        self.lambda_, self.lr, self.momentum, self.steps = lambda_, lr, momentum, steps
        self.learned = SimplexWeights()
        self._logarithms = TaskAdam(0.0, matrix_free_lr) if self.matrix_free else None
        self._preference = (
            None if preference is None else TaskValues("sdmgrad", "preference", preference, minimum=0.0, above=True)
        )

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A task has no preference, or a preference no task.
        """
        self.learned.add(tasks)
        if self._logarithms is not None:
            self._logarithms.add(tasks)
        if self._preference is not None:
            self._preference.prepare(tasks)

    def update_weights(self, cross: Tensor) -> None:
        """See `IndependentBatches.update_weights`."""
        from polytask.balancing.solvers.simplex import onto_simplex

        products = cross.detach().cpu().double()
        length = float(products.diagonal().clamp(min=0).sqrt().mean())
        if not length > 0 or not products.isfinite().all():
            return
        tasks = self.tasks_of(cross)
        weights = self.learned.weights(tasks)
        slopes, wanted = (products / length**2).numpy(), (self.lambda_ * self._wanted(weights)).numpy()
        w, velocity = weights.numpy(), 0.0
        for _ in range(self.steps):
            velocity = self.momentum * velocity + slopes @ (w + wanted)
            w = onto_simplex(w - self.lr * velocity)
        self.learned.replace(tasks, torch.from_numpy(w))

    def update_weights_by(self, product: Tensor) -> None:
        """See `IndependentBatches.update_weights_by`: down `|J (w + λ p)|² / 2`, whatever its scale."""
        if self._logarithms is None or not product.isfinite().all():
            return
        tasks = self.tasks_of(product)
        weights = self.learned.weights(tasks)
        # In proportion to the derivative, which is all that Adam looks at.
        self._logarithms.step(tasks, weights * (product - weights @ product))
        self.learned.replace(tasks, self._logarithms.read("value", tasks, weights.device).double().softmax(0))

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`: from the state alone."""
        weights = self.learned.weights(self.tasks_of(gramian))
        return ((weights + self.lambda_ * self._wanted(weights)) / (1 + self.lambda_)).to(gramian)

    def _wanted(self, weights: Tensor) -> Tensor:
        if self._preference is None:
            return torch.full_like(weights, 1 / len(weights))
        wanted = self._preference.read(self.tasks_of(weights), weights)
        return wanted / wanted.sum()
