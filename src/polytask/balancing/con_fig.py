"""A direction that has the same angle to each task's gradient."""

from __future__ import annotations

from torch import Tensor

from polytask.balancing.preference import PreferenceBalancer
from polytask.balancing.unit_gradients import projecting


class ConFIG(PreferenceBalancer):
    """ConFIG, conflict-free inverse gradients: the direction of equal cosines, as far as the gradients go along it.

    From Liu, Chu and Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025.
    With the unit gradients as the rows of `Û` and the preference p (1 for every task where there is none), the
    direction is `u = Û⁺ p / |Û⁺ p|`, which has cosines with the gradients in proportion to p, and the update is `(sum_k
    g_k · u) u`. Both lie in the span of the gradients, so that their Gramian is enough: `u` is the sum of the gradients
    with the weights `(Û Ûᵀ)⁺ p / |g_k|`, scaled.

    The direction does not depend on the scales of the losses. The scale of the update is that of the sum of the
    gradients, less what conflicts. The weights can be negative. Where the gradients depend on each other (more tasks
    than dimensions), so that no direction has these cosines, it is the nearest to it; where none is left, as for
    opposite gradients, the weights are 0. A task with a gradient of 0 is left out.

    The preference sets the cosines wanted with the tasks' gradients, relative to each other.
    """

    paper = (
        "Liu, Chu and Thuerey, ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks, ICLR 2025"
    )
    year = 2025
    method = "con_fig"

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        known = gramian.double()
        direction = projecting(known, self.shares(known))
        products = known @ direction
        square = direction @ products
        return (direction * (products.sum() / square.where(square > 0, 1.0))).to(gramian.dtype)
