"""Learning a start from which each task is learned fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from polytask.components import Nested
from polytask.errors import UserError, listing
from polytask.schedules.orders import Metrics, Order
from polytask.schedules.report import Turn
from polytask.schedules.schedule import InnerLoop
from polytask.schedules.taking_turns import TakingTurns

Algorithm = Literal["reptile", "fomaml"]


class Meta(TakingTurns):
    """Meta-learning: weights from which each task is learned in a few steps.

    In each step one task is learned for a few steps, on trial; then the weights move to where that goes better.

    From the weights `φ`, `k` inner steps of plain gradient descent with the learning rate `α` on batches of the task
    lead to `φ_k`; then the weights are put back, and the optimiser gets as their gradient

    - `reptile`: `(φ - φ_k) / (α k)`, the mean of the inner gradients (Nichol, Achiam and Schulman, On First-Order
      Meta-Learning Algorithms, 2018, who leave out the division by k);
    - `fomaml`: the gradient at `φ_k` on one more batch of the task: first-order MAML (Finn, Abbeel and Levine,
      Model-Agnostic Meta-Learning, ICML 2017).

    So a new task can be learned from few examples: `polytask train CONFIG --adapt RUN --task NEW`. The outer learning
    rate is `training.optimizer.lr`. Inner steps move all that learns, the task's head too. A step takes k batches, or
    k + 1; at the end of a pass through a task's rows, and where it has few, it has fewer, which are then used several
    times. With one batch alone, `fomaml` divides it in two halves.

    Args:
        algorithm: `reptile` or `fomaml`.
        inner_steps: `k`, at least 1.
        inner_lr: `α`, above 0.
        order: Which task comes next: the name of an order, or a mapping with its type and settings.
        consecutive: Steps in a row that a task has when it is its turn.
    """

    def __init__(
        self,
        algorithm: Algorithm = "reptile",
        inner_steps: int = 5,
        inner_lr: float = 0.05,
        order: Annotated[Order | str, Nested("order")] = "random",
        consecutive: int = 1,
    ) -> None:
        super().__init__(order, consecutive)
        if algorithm not in get_args(Algorithm):
            raise UserError(f"algorithm is '{algorithm}'. Allowed: {listing(get_args(Algorithm))}.")
        if inner_steps < 1:
            raise UserError(f"inner_steps is {inner_steps}, but must be at least 1.")
        if not inner_lr > 0:
            raise UserError(f"inner_lr is {inner_lr:g}, but must be above 0.")
        self._inner = InnerLoop(inner_steps, inner_lr, query=algorithm == "fomaml")

    @property
    def inner(self) -> InnerLoop:
        """See `Schedule.inner`."""
        return self._inner

    def check(self, tasks: Metrics, epochs: int) -> None:
        """See `Schedule.check`."""
        self.order.check([(task,) for task in tasks], tasks)

    def possible(self) -> Sequence[Turn]:
        """See `TakingTurns.possible`."""
        return [(task,) for task in self.tasks]
