"""The mean of what is not extreme."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polytask.balancing.jacobian_balancer import JacobianBalancer
from polytask.errors import UserError


class TrimmedMean(JacobianBalancer):
    """Trimmed mean: at each coordinate, the mean of the gradients without the greatest and the least.

    From Yin, Chen, Kannan and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    ICML 2018. It bounds what a few wrong gradients can do. It was made for copies of one task; with different tasks,
    what few of them need at a coordinate is lost.

    The scale is that of the mean of the gradients. In a step with too few tasks, as many are left out as leaves one or
    two, which makes it the median.

    Args:
        trim: How many gradients are left out at each end, at least 0; K has to be above twice that. The paper gives
            the share of the gradients, `trim / K`.

    Raises:
        UserError: It is below 0.
    """

    paper = (
        "Yin, Chen, Kannan and Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, "
        "ICML 2018"
    )
    year = 2018

    def __init__(self, trim: int = 1, **options: Any) -> None:
        super().__init__(**options)
        if trim < 0:
            raise UserError(f"trimmed_mean: trim is {trim}, but must be at least 0.")
        self.trim = trim

    def combine(self, jacobian: Tensor) -> Tensor:
        """See `JacobianBalancer.combine`."""
        count = len(jacobian)
        trim = min(self.trim, (count - 1) // 2)
        rows = list(jacobian)
        # Bubble sort of whole rows, until the extremes are at the ends: far faster than sorting each column.
        for done in range(trim):
            for i in range(done, count - done - 1):
                rows[i], rows[i + 1] = torch.minimum(rows[i], rows[i + 1]), torch.maximum(rows[i], rows[i + 1])
            for i in range(count - done - 2, done, -1):
                rows[i - 1], rows[i] = torch.minimum(rows[i - 1], rows[i]), torch.maximum(rows[i - 1], rows[i])
        return torch.stack(rows[trim : count - trim]).mean(0)
