"""Weights that make tasks learn at one pace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from polytask.balancing.adam import TaskAdam
from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.per_task import PerTask
from polytask.balancing.task_values import TaskValues
from polytask.errors import UserError

# Far below what a step of the weights' optimiser can aim at; above 0, so that a task is never quite out.
LEAST = 1e-4


class GradNorm(GramianBalancer):
    """GradNorm: learned weights that bring the gradients' lengths near each other, longer for tasks that lag behind.

    From Chen, Badrinarayanan, Lee and Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
    Multitask Networks", ICML 2018. With `n_k = w_k |g_k|`, their mean n, and the rate `r_k = (L_k / L_k(0)) / mean_j
    (L_j / L_j(0))`, the weights follow the gradient of `sum_k |n_k - n r_k^alpha|`, where the targets `n r_k^alpha`
    count as constants. After each step they are scaled to the sum they had before: K, where all tasks are there. They
    start at 1. Only the gradients' lengths are needed, which the paper takes for the last shared layer alone.

    The weights are moved by an Adam of their own, and apply to the whole of a task's loss, its own parameters too. Each
    step of a weight is about `lr`, back and forth once it is where it should be. So none stays far below `lr`, and
    gradients whose lengths differ some hundred times are not made alike. A loss compares with the first one above 0 of
    its task, which makes the method sensitive to how training starts. LibMTL learns logits of a softmax in place of the
    weights, and compares with the averages of the first epoch.

    Args:
        alpha: How strongly tasks that lag behind are favoured, at least 0; 0 makes all gradients one length. The paper
            takes 1.5 for NYUv2, and 0.12 where tasks are alike but for their scales.
        lr: Learning rate of the weights.
        initial_losses: The losses to compare with, above 0, by task name or in order; None: the first. The paper
            advises those of a guess, as `log C` for a cross-entropy over C classes, where the first ones are not
            typical.
        on: What gradients are taken for: the parameters of the `last` shared layer, as in the paper; all shared
            `parameters`; or the shared `features`.

    Raises:
        UserError: A parameter is out of range.
    """

    paper = (
        "Chen, Badrinarayanan, Lee and Rabinovich, GradNorm: Gradient Normalization for Adaptive Loss Balancing in "
        "Deep Multitask Networks, ICML 2018"
    )
    year = 2018

    def __init__(
        self,
        alpha: float = 1.5,
        lr: float = 0.025,
        initial_losses: Mapping[str, float] | Sequence[float] | None = None,
        *,
        on: Literal["parameters", "features", "last"] = "last",
        **options: Any,
    ) -> None:
        super().__init__(on=on, **options)
        if not 0 <= alpha < math.inf:
            raise UserError(f"gradnorm: alpha is {alpha}, but must be at least 0.")
        if not 0 < lr < math.inf:
            raise UserError(f"gradnorm: lr is {lr}, but must be above 0.")
        self.alpha = alpha
        self.learned = TaskAdam(1.0, lr)
        self.first = PerTask({"loss": 0.0})
        self._initial = (
            None
            if initial_losses is None
            else TaskValues("gradnorm", "initial loss", initial_losses, minimum=0.0, above=True)
        )

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A task has no initial loss, or an initial loss no task.
        """
        self.learned.add(tasks)
        self.first.add(tasks)
        if self._initial is not None:
            self._initial.prepare(tasks)

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        return self.learned.read("value", self.tasks_of(gramian), gramian.device).to(gramian.dtype)

    def head_weights(self) -> Tensor:
        """See `GramianBalancer.head_weights`: the same weights."""
        return self.learned.read("value", self.present, self.learned.get_buffer("value").device).double()

    def observe(self, gramian: Tensor, weights: Tensor) -> None:
        """See `GramianBalancer.observe`: move the weights."""
        assert self.losses is not None
        tasks = self.tasks_of(gramian)
        lengths = gramian.diagonal().clamp(min=0).sqrt()
        weighted = weights * lengths
        goals = weighted.mean() * self._rates(tasks, self.losses) ** self.alpha
        before = self.learned.read("value", tasks, gramian.device)
        self.learned.step(tasks, (weighted - goals).sign() * lengths)
        moved = self.learned.read("value", tasks, gramian.device).clamp(min=LEAST)
        self.learned.write("value", tasks, moved * (before.sum() / moved.sum()))

    def _rates(self, tasks: Sequence[str], losses: Tensor) -> Tensor:
        """`[K]`, how far behind each task is, 1 on average."""
        if self._initial is not None:
            first = self._initial.read(tasks, losses)
        else:
            kept = self.first.read("loss", tasks, losses.device)
            kept = kept.where((kept > 0) | (losses <= 0), losses.to(kept.dtype))
            self.first.write("loss", tasks, kept)
            first = kept.to(losses.dtype)
        ratios = (losses.clamp(min=0) / first.where(first > 0, 1.0)).where(first > 0, 1.0)
        mean = ratios.mean()
        return (ratios / mean.where(mean > 0, 1.0)).where(mean > 0, 1.0)
