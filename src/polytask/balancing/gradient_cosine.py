"""Auxiliary gradients that do not oppose the main task's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.main_tasks import MainTasks


class GradientCosine(GramianBalancer):
    """Gradient cosine similarity: an auxiliary task's gradient is used where it does not oppose the main task's.

    From Du, Czarnecki, Jayakumar, Farajtabar, Pascanu and Lakshminarayanan, "Adapting Auxiliary Losses Using Gradient
    Similarity", 2018 (arXiv:1812.02224). The main task has the weight 1; an auxiliary task has 1 where the cosine of
    its gradient with the main one's is at least 0, else 0, or, in the weighted form, the cosine itself where it is
    positive. So the update never opposes the main task, and training ends where that one's gradient is 0.

    With several main tasks it is the cosine with the sum of their gradients. The scale is that of the sum. An auxiliary
    task that helps only in the long run, or whose gradient is mostly noise, is taken by chance about half of the time.
    In a step without a main task there is nothing to oppose, and all weights are 1.

    Args:
        main: The name of the main task, or the names of several; None: in a configuration, the tasks that are not
            auxiliary.
        weighted: Whether the weight is the cosine.

    Raises:
        UserError: `main` is empty or, where the tasks are known, none of them.
    """

    paper = (
        "Du, Czarnecki, Jayakumar, Farajtabar, Pascanu and Lakshminarayanan, Adapting Auxiliary Losses Using Gradient "
        "Similarity, arXiv:1812.02224, 2018"
    )
    year = 2018

    def __init__(self, main: str | Sequence[str] | None = None, weighted: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.main = MainTasks("gradient_cosine", main)
        self.weighted = weighted

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A main task is no task.
        """
        self.main.prepare(tasks)

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        main = self.main.among(self.tasks_of(gramian)).to(gramian.device)
        products = gramian[main].sum(0)
        if not main.any():
            return torch.ones_like(products)
        if not self.weighted:
            return ((products >= 0) | main).to(products.dtype)
        lengths = gramian.diagonal().clamp(min=0).sqrt() * products[main].sum().clamp(min=0).sqrt()
        cosines = (products / lengths.where(lengths > 0, 1.0)).clamp(0, 1)
        return cosines.where(~main, 1.0)
