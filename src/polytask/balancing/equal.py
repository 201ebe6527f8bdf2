"""The sum of the losses."""

from __future__ import annotations

from torch import Tensor

from polytask.balancing.loss_balancer import LossBalancer


class Equal(LossBalancer):
    """Equal weights, also called unitary scalarisation: `L = sum_k L_k`.

    The reference that every other method has to beat; tuned learning rates and regularisation make it hard to beat
    (Kurin, De Palma, Kostrikov, Whiteson and Kumar, "In Defense of the Unitary Scalarization for Deep Multi-Task
    Learning", NeurIPS 2022). Tasks with large losses dominate.
    """

    paper = "Kurin et al., In Defense of the Unitary Scalarization for Deep Multi-Task Learning, NeurIPS 2022"
    year = 2022
    fixed_weights = True

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        return losses.sum()
